// SPDX-License-Identifier: MIT
// restore_plan.cc - see restore_plan.h. Invariant: as there. Context: N (agent).
#include "agent/restore_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "agent/file_locks.h"
#include "agent/frame.h"
#include "agent/furnish.h"
#include "agent/kind_pty.h"
#include "agent/posix_timers.h"
#include "agent/restore_files.h"
#include "agent/restore_objects.h"
#include "agent/restore_sockets.h"
#include "agent/semaphores.h"
#include "agent/session_files.h"
#include "agent/traits.h"
#include "agent/vdso.h"
#include "format/checksum.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

// Earlier versions saved it; see peek_signals().
bool halts(const format::SiginfoRecord& r) {
  siginfo_t s;
  memcpy(&s, r.info, sizeof(s));
  return s.si_signo == SIGSTOP;
}

// Does the kernel give huge pages to memory that did not ask for them?
bool huge_pages_always() {
  auto text = os::read_file("/sys/kernel/mm/transparent_hugepage/enabled");
  return text && text->find("[always]") != std::string::npos;
}

// Threads that are inside the kernel when they miss a page must be able to wait for it as well, and
// forks must be noticed: both are privileged.
std::string why_not_lazy() {
  const os::Fd fd(static_cast<int>(syscall(__NR_userfaultfd, O_CLOEXEC)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                 UFFD_FEATURE_EVENT_UNMAP;
  if (fd && ioctl(fd.get(), UFFDIO_API, &api) == 0) return "";
  return std::string("userfaultfd: ") + strerror(errno) +
         (errno == EPERM ? " (it takes root or CAP_SYS_PTRACE)" : "");
}

// Of the process of a pidfd; 0: there is none.
pid_t pid_of(int pidfd) {
  if (pidfd < 0) return 0;
  const std::string info = os::read_or_empty("/proc/self/fdinfo/" + std::to_string(pidfd));
  return static_cast<pid_t>(strtol(os::status_field(info, "Pid").c_str(), nullptr, 10));
}

// One for each processor that we may use, as far as there is work for them.
uint32_t fill_workers(uint64_t pages) {
  constexpr uint64_t kPagesEach = 4096;
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  const uint64_t most =
      std::min<uint64_t>(static_cast<uint64_t>(std::max(cores, 1)), format::kMostFillWorkers);
  return static_cast<uint32_t>(std::clamp<uint64_t>(pages / kPagesEach, 1, most));
}

class Bytes {
 public:
  explicit Bytes(std::vector<uint8_t>& v) : v_(v) {}
  uint64_t reserve(uint64_t bytes, uint64_t alignment) {
    const uint64_t at = (v_.size() + alignment - 1) / alignment * alignment;
    v_.resize(at + bytes);
    return at;
  }
  template <typename T>
  format::PlanArray add(const T* data, uint64_t count) {
    const uint64_t at = reserve(count * sizeof(T), 16);
    if (count > 0) memcpy(v_.data() + at, data, count * sizeof(T));
    return {at, count};
  }

 private:
  std::vector<uint8_t>& v_;
};

class Planner {
 public:
  Planner(const store::LoadedImage& loaded, const std::string& dir, const PlanOptions& options,
          RestorePlan& plan)
      : loaded_(loaded),
        image_(loaded.view),
        dir_(dir),
        options_(options),
        plan_(plan),
        objects_(loaded, dir, options, plan) {}
  Trouble run();

 private:
  Trouble check_machine();
  Trouble check_pages();
  Trouble check_memory() const;
  Trouble plan_segments();
  Trouble plan_file_segment(const format::SegmentRecord& s);
  Trouble plan_object_segment(const format::SegmentRecord& s);
  Trouble plan_vdso();
  Trouble plan_program();
  Trouble put_changed_files_back() {
    if (options_.shared != nullptr) return {};  // of a tree: done for all of it
    return put_session_files_back(loaded_, dir_, options_, plan_);
  }
  Trouble put_semaphores_back() {
    return set_semaphores(image_,
                          options_.shared != nullptr ? &options_.shared->semaphores : nullptr,
                          [this](std::function<void()> step) { plan_.undo.add(std::move(step)); });
  }
  bool add_fills(const format::SegmentRecord& s, const os::Mapping* file, uint64_t file_bytes);
  void add_fill(uint64_t addr, uint64_t pages, uint64_t slot);
  void add_zeros(uint64_t addr, uint64_t pages);
  void choose_how(format::PlanMap& m, size_t first_fill);
  void add_fills_to(Bytes& out);
  void add_calls(Bytes& out);
  void add_traits(Bytes& out, format::PlanThread& t);
  int send_file(const std::string& path, int fd);
  void write_out();
  uint64_t find_parking(uint64_t bytes) const;

  const store::LoadedImage& loaded_;
  const format::ImageView& image_;
  const std::string& dir_;
  PlanOptions options_;
  RestorePlan& plan_;
  ObjectMaker objects_;
  const bool huge_always_ = huge_pages_always();
  format::PlanHeader header_{};
  std::vector<format::PlanMap> maps_;
  std::vector<format::PlanFill> fills_;
  std::vector<format::PlanZero> zeros_;
  std::vector<format::PlanVdsoPatch> patches_;
  std::vector<format::PlanFd> fds_;
  size_t first_of_segment_ = 0;      // of fills_: they never reach across segments
  std::map<std::string, int> sent_;  // mapped file -> index in plan_.fds
};

Trouble Planner::check_machine() {
  const std::string missing = missing_cpu_features(image_.process->cpu, this_cpu());
  if (!missing.empty()) {
    return trouble(
        Errc::kWrongMachine, 0,
        loaded_.path +
            ": wrong machine: the program may use processor features that this one lacks: " +
            missing);
  }
  if (image_.process->cpu.xstate_bytes > this_cpu().xstate_bytes) {
    return trouble(Errc::kWrongMachine, 0,
                   loaded_.path + ": wrong machine: its registers need " +
                       std::to_string(image_.process->cpu.xstate_bytes) +
                       " bytes of processor state, this processor has " +
                       std::to_string(this_cpu().xstate_bytes));
  }
  return {};
}

// Those that the restorer will not read, or all.
Trouble Planner::check_pages() {
  std::vector<store::SlotRun> read, rest;
  if (options_.verify == Verify::kWithFill) {
    for (const format::PlanFill& f : fills_) {
      read.push_back({(f.image_off - image_.super.payload_off) / kPageSize, f.bytes / kPageSize});
    }
    std::ranges::sort(read, {}, &store::SlotRun::first);
  }
  uint64_t at = 0;
  read.push_back({image_.super.payload_slots, 0});
  for (const store::SlotRun& r : read) {
    if (r.first > at) rest.push_back({at, r.first - at});
    at = std::max(at, r.first + r.count);
  }
  uint64_t slot = 0;
  const uint64_t addr = store::verify_pages(image_, rest, &slot, plan_.on_verify);
  return addr == 0 ? Trouble{} : damaged_page(loaded_, addr, slot);
}

// Memory that this process's cgroups will never give is better refused than killed for.
Trouble Planner::check_memory() const {
  uint64_t need = objects_.fresh_bytes();
  for (const format::PlanFill& f : fills_) need += f.bytes;
  std::string group;
  auto cgroups = os::read_file("/proc/self/cgroup");
  const uint64_t limit = os::memory_limit(cgroups ? *cgroups : "", "/sys/fs/cgroup", &group);
  if (need <= limit) return {};
  return trouble(Errc::kNoMemory, ENOMEM,
                 loaded_.path + ": the program needs " + std::to_string(need >> 20) +
                     " MiB of memory, the memory cgroup " + group + " allows " +
                     std::to_string(limit >> 20) + " MiB; raise its limit or restore elsewhere");
}

int Planner::send_file(const std::string& path, int fd) {
  auto it = sent_.find(path);
  if (it != sent_.end()) return it->second;
  const int index = static_cast<int>(plan_.fds.size());
  plan_.fds.push_back(os::Fd(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
  sent_[path] = index;
  return index;
}

void Planner::add_fill(uint64_t addr, uint64_t pages, uint64_t slot) {
  const uint64_t off = image_.super.payload_off + slot * kPageSize, bytes = pages * kPageSize;
  if (fills_.size() > first_of_segment_) {
    format::PlanFill& f = fills_.back();
    if (f.addr + f.bytes == addr && f.image_off + f.bytes == off) {
      f.bytes += bytes;
      return;
    }
  }
  fills_.push_back({addr, bytes, off, 0, format::kFillRead, 0});
}

void Planner::add_zeros(uint64_t addr, uint64_t pages) {
  if (!zeros_.empty() && zeros_.back().addr + zeros_.back().bytes == addr) {
    zeros_.back().bytes += pages * kPageSize;
  } else {
    zeros_.push_back({addr, pages * kPageSize});
  }
}

// Memory that may have huge pages is read into, for then there are fewer pages to make. Lazily come
// large runs; memory that the kernel would touch at once (mlock) or not give to a fork does not.
void Planner::choose_how(format::PlanMap& m, size_t first_fill) {
  constexpr uint64_t kWorthRegistering = 256 << 10, kWorthBeingLate = 256 << 10;
  constexpr uint32_t kNotLate = format::kSegmentLocked | format::kSegmentWipeOnFork;
  if (options_.lazy && (m.segment_flags & kNotLate) == 0) {
    for (size_t i = first_fill; i < fills_.size(); i++) {
      if (fills_[i].bytes < kWorthBeingLate) continue;
      fills_[i].how = format::kFillLazy;
      m.userfault = format::kUserfaultLazy;
    }
    if (m.userfault != 0) {
      for (size_t i = first_fill; i < fills_.size(); i++) {
        if (fills_[i].how != format::kFillLazy) fills_[i].how = format::kFillCopy;
      }
      return;
    }
  }
  const bool huge = (m.segment_flags & format::kSegmentHuge) != 0 ||
                    (huge_always_ && (m.segment_flags & format::kSegmentNoHuge) == 0);
  uint64_t bytes = 0;
  for (size_t i = first_fill; i < fills_.size(); i++) bytes += fills_[i].bytes;
  if (huge || bytes < kWorthRegistering) return;
  m.userfault = format::kUserfaultFill;
  for (size_t i = first_fill; i < fills_.size(); i++) fills_[i].how = format::kFillCopy;
}

// What the segment's memory needs from the image; false: nothing. Pages that the file holds just so
// are left to it.
bool Planner::add_fills(const format::SegmentRecord& s, const os::Mapping* file,
                        uint64_t file_bytes) {
  bool any = false;
  first_of_segment_ = fills_.size();
  auto it = std::lower_bound(image_.extents.begin(), image_.extents.end(), s.start,
                             [](const format::ExtentRecord& e, uint64_t a) { return e.addr < a; });
  for (; it != image_.extents.end() && it->addr < s.end; ++it) {
    if (it->slot == format::kSlotZero) {
      if (file == nullptr) continue;
      add_zeros(it->addr, it->pages);
      any = true;
      continue;
    }
    if (file == nullptr) {
      add_fill(it->addr, it->pages, it->slot);
      any = true;
      continue;
    }
    for (uint64_t p = 0; p < it->pages; p++) {
      const uint64_t addr = it->addr + p * kPageSize;
      const uint64_t in_file = s.file_off + (addr - s.start);
      const bool same =
          in_file + kPageSize <= file_bytes &&
          format::checksum(file->data() + in_file, kPageSize) == image_.checksums[it->slot + p];
      // The last, partial page of a file reads as zeros behind its end, in the image as well.
      if (same) continue;
      add_fill(addr, 1, it->slot + p);
      any = true;
    }
  }
  return any;
}

Trouble Planner::plan_file_segment(const format::SegmentRecord& s) {
  const std::string path = image_.string(s.file);
  format::PlanMap m{};
  m.addr = s.start;
  m.bytes = s.end - s.start;
  m.prot = s.prot;
  m.segment_flags =
      s.flags & ~(format::kSegmentEmbedded | format::kSegmentDeleted | format::kSegmentHeap);
  m.file_off = s.file_off;
  const bool shared = s.kind == format::kSegmentFileShared;
  m.flags = shared ? MAP_SHARED : MAP_PRIVATE;
  os::Fd fd;
  struct stat st {};
  if ((s.flags & format::kSegmentDeleted) == 0) {
    if (shared && (s.flags & format::kSegmentMayWrite) != 0) {
      fd = os::Fd(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    }
    if (!fd) fd = os::Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd && (fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode))) fd.reset();
  }
  const int64_t mtime = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
  const bool embedded = (s.flags & format::kSegmentEmbedded) != 0;
  if (plan_.put_back_later.contains(path)) return {};  // nothing is started
  if (!embedded &&
      (!fd || static_cast<uint64_t>(st.st_size) != s.file_bytes || mtime != s.file_mtime_ns)) {
    return trouble(
        Errc::kUnsupported, 0,
        "the mapped file " + path + (fd ? " has changed" : " is missing") +
            " since the checkpoint, and the image does not hold it; put back the file as it was");
  }
  if (embedded && fd && static_cast<uint64_t>(st.st_size) != s.file_bytes) fd.reset();
  if (!fd) {  // the image has it all
    m.file = -1;
    m.flags = MAP_PRIVATE | MAP_ANONYMOUS;
    m.file_off = 0;
    m.fill = add_fills(s, nullptr, 0) ? 1 : 0;
    maps_.push_back(m);
    return {};
  }
  const bool writing = (fcntl(fd.get(), F_GETFL) & O_ACCMODE) == O_RDWR;
  m.file = send_file(path + (writing ? "\001" : ""), fd.get());
  if (!shared) {
    const auto bytes = static_cast<uint64_t>(st.st_size);
    os::Mapping content;
    if (embedded && bytes > 0) {
      auto map = os::Mapping::map(fd.get(), bytes, PROT_READ, MAP_PRIVATE);
      if (!map) return trouble(Errc::kSystem, map.error().sys_errno, "mapping " + path);
      content = std::move(*map);
    }
    m.fill = add_fills(s, &content, embedded ? bytes : 0) ? 1 : 0;
  }
  maps_.push_back(m);
  return {};
}

// The object's pages are no part of the mapping; the process's own pages of it are.
Trouble Planner::plan_object_segment(const format::SegmentRecord& s) {
  std::vector<format::PlanMap> maps;
  Trouble bad = objects_.map(s, &maps);
  if (bad.bad()) return bad;
  const os::Mapping none;
  if (s.kind == format::kSegmentFile) maps[0].fill = add_fills(s, &none, 0) ? 1 : 0;
  maps_.insert(maps_.end(), maps.begin(), maps.end());
  return {};
}

Trouble Planner::plan_segments() {
  Trouble bad = objects_.prepare();
  if (bad.bad()) return bad;
  for (const format::SegmentRecord& s : image_.segments) {
    if (s.kind == format::kSegmentVdso || s.kind == format::kSegmentVvar) continue;
    if (format::object_address(image_, s, s.start) != 0) {
      bad = plan_object_segment(s);
      if (bad.bad()) return bad;
      continue;
    }
    if (s.kind == format::kSegmentFile || s.kind == format::kSegmentFileShared) {
      bad = plan_file_segment(s);
      if (bad.bad()) return bad;
      continue;
    }
    format::PlanMap m{};
    m.addr = s.start;
    m.bytes = s.end - s.start;
    m.prot = s.prot;
    m.file = -1;
    m.segment_flags = s.flags;
    m.flags = MAP_ANONYMOUS | (s.kind == format::kSegmentAnonShared ? MAP_SHARED : MAP_PRIVATE);
    if (s.kind == format::kSegmentStack) m.flags |= MAP_GROWSDOWN | MAP_STACK;
    if ((s.flags & format::kSegmentNoReserve) != 0 || s.prot == 0) m.flags |= MAP_NORESERVE;
    const size_t first_fill = fills_.size();
    m.fill = add_fills(s, nullptr, 0) ? 1 : 0;
    if (s.kind == format::kSegmentAnon) choose_how(m, first_fill);
    maps_.push_back(m);
  }
  for (const format::OverlayRecord& o : image_.overlays) {
    for (format::PlanMap& m : maps_) {
      if (o.addr >= m.addr && o.addr < m.addr + m.bytes) m.fill = 1;
    }
  }
  return {};
}

// A hole of the image's map, away from everything that may grow.
uint64_t Planner::find_parking(uint64_t bytes) const {
  uint64_t at = 0x300000000000;
  constexpr uint64_t kMargin = 1 << 20;
  for (const format::PlanMap& m : maps_) {
    if (m.addr < at + bytes + kMargin && at < m.addr + m.bytes + kMargin) {
      at = page_ceil(m.addr + m.bytes) + 2 * kMargin;
    }
  }
  return at;
}

Trouble Planner::plan_vdso() {
  const format::ProcessRecord& p = *image_.process;
  if (p.vdso_start == 0) return {};
  const OwnVdso own = own_vdso();
  std::string old(p.vdso_bytes, '\0');
  for (uint64_t off = 0; off < p.vdso_bytes; off += kPageSize) {
    const format::ExtentRecord* e = format::find_extent(image_, p.vdso_start + off);
    if (e == nullptr || e->slot == format::kSlotZero) continue;
    memcpy(old.data() + off, image_.slot(e->slot + (p.vdso_start + off - e->addr) / kPageSize),
           kPageSize);
  }
  const bool same = own.text.size() == old.size() &&
                    memcmp(own.text.data(), old.data(), old.size()) == 0 &&
                    own.distance == p.vdso_start - p.vvar_start;
  if (same && getenv("CR_FORCE_VDSO_PATCH") == nullptr) return {};
  if (!match_vdso({reinterpret_cast<const uint8_t*>(old.data()), old.size()}, own.text,
                  &patches_)) {
    return trouble(
        Errc::kWrongMachine, 0,
        loaded_.path +
            ": wrong machine: this kernel's vDSO lacks a function that the program may call");
  }
  format::SegmentRecord s{};
  s.start = p.vdso_start;
  s.end = p.vdso_start + p.vdso_bytes;
  format::PlanMap m{};
  m.addr = s.start;
  m.bytes = p.vdso_bytes;
  m.prot = PROT_READ | PROT_EXEC;
  m.flags = MAP_PRIVATE | MAP_ANONYMOUS;
  m.file = -1;
  m.fill = 1;
  (void)add_fills(s, nullptr, 0);
  maps_.push_back(m);
  header_.vdso_patch = 1;
  header_.vdso_parking = find_parking(own.bytes);
  return {};
}

Trouble Planner::plan_program() {
  plan_.program = image_.string(image_.process->program);
  auto split = [&](format::BlobRef ref) {
    std::vector<std::string> out;
    const auto b = image_.blob(ref);
    size_t at = 0;
    while (at < b.size()) {
      const size_t n = strnlen(reinterpret_cast<const char*>(b.data() + at), b.size() - at);
      out.emplace_back(reinterpret_cast<const char*>(b.data() + at), n);
      at += n + 1;
    }
    return out;
  };
  plan_.argv = split(image_.process->cmdline);
  plan_.environment = split(image_.process->environ);
  if (plan_.argv.empty()) plan_.argv.push_back(plan_.program);
  const char* cwd = image_.string(image_.process->cwd);
  struct stat st;
  if (stat(cwd, &st) != 0 || !S_ISDIR(st.st_mode) || access(cwd, X_OK) != 0) {
    return trouble(Errc::kNotFound, errno != 0 ? errno : ENOENT,
                   std::string("the program's working directory ") + cwd +
                       " is not there; make it, then try again");
  }
  return {};
}

// The lazy fills in a list of their own.
void Planner::add_fills_to(Bytes& out) {
  format::PlanHeader& h = header_;
  std::vector<format::PlanFill> now, later;
  for (format::PlanFill f : fills_) {
    if (f.how == format::kFillLazy) {
      plan_.lazy_bytes += f.bytes;
      later.push_back(f);
      continue;
    }
    f.first_page = h.fill_pages;
    h.fill_pages += f.bytes / kPageSize;
    now.push_back(f);
  }
  plan_.eager_bytes = h.fill_pages * kPageSize;
  h.fills = out.add(now.data(), now.size());
  h.lazy_fills = out.add(later.data(), later.size());
}

// What the process does to itself.
void Planner::add_calls(Bytes& out) {
  plan_.own_session = controls_own_terminal(image_);
  Recipes recipes;
  fill_sockets(image_, plan_.sockets_to_fill, recipes.early);  // before it is signalled (O_ASYNC)
  furnish_process(image_, /*make=*/true, recipes);
  auto add = [&](const Recipe& r, format::PlanArray* list, uint64_t* data_off) {
    *list = out.add(r.calls().data(), r.calls().size());
    *data_off = out.add(r.bytes().data(), r.bytes().size()).off;
    plan_.call_names.insert(plan_.call_names.end(), r.whats().begin(), r.whats().end());
  };
  add(recipes.early, &header_.calls, &header_.calls_data_off);
  add(recipes.late, &header_.late_calls, &header_.late_data_off);
}

void Planner::add_traits(Bytes& out, format::PlanThread& t) {
  ThreadRecipes r;
  adopt_traits(image_, t.record, r);
  t.traits_name = plan_.call_names.size();
  plan_.call_names.insert(plan_.call_names.end(), r.traits.whats().begin(), r.traits.whats().end());
  t.traits = out.add(r.traits.calls().data(), r.traits.calls().size());
  t.traits_data_off = out.add(r.traits.bytes().data(), r.traits.bytes().size()).off;
  t.filters = out.add(r.filters.calls().data(), r.filters.calls().size());
  t.filters_data_off = out.add(r.filters.bytes().data(), r.filters.bytes().size()).off;
}

void Planner::write_out() {
  Bytes out(plan_.bytes);
  out.reserve(sizeof(format::PlanHeader), 16);
  format::PlanHeader& h = header_;
  h.magic = format::kPlanMagic;
  h.process = *image_.process;
  // Ascending, so that no mapping can be taken for an obstacle by MAP_GROWSDOWN's guard gap.
  // Stable: what was attached comes before its parts.
  std::ranges::stable_sort(maps_, {}, &format::PlanMap::addr);
  h.maps = out.add(maps_.data(), maps_.size());
  add_fills_to(out);
  h.zeros = out.add(zeros_.data(), zeros_.size());
  std::vector<format::PlanFileChange> changes;
  for (const PendingFile& p : plan_.pending) {
    const auto placed =
        std::ranges::find(fds_, static_cast<uint32_t>(p.fd), &format::PlanFd::source);
    if (!p.seek || placed == fds_.end()) continue;
    changes.push_back({placed->fd, p.truncate ? 1u : 0u, p.bytes, p.position});
  }
  h.file_changes = out.add(changes.data(), changes.size());
  h.object_changes = out.add(plan_.object_changes.data(), plan_.object_changes.size());
  add_calls(out);
  h.patches = out.add(patches_.data(), patches_.size());
  h.fds = out.add(fds_.data(), fds_.size());
  h.sigactions = out.add(image_.sigactions.data(), image_.sigactions.size());
  std::vector<format::PlanOverlay> overlays;
  for (const format::OverlayRecord& o : image_.overlays) {
    const auto b = image_.blob(o.bytes);
    overlays.push_back({o.addr, b.size(), out.add(b.data(), b.size()).off});
  }
  // The image may have been moved or copied since: its control thread looks for the agent here.
  const size_t dir_bytes = dir_.size() + 1;
  overlays.push_back({image_.process->control_state + offsetof(format::ControlHead, session_dir),
                      dir_bytes, out.add(dir_.c_str(), dir_bytes).off});
  h.overlays = out.add(overlays.data(), overlays.size());
  const auto auxv = image_.blob(image_.process->auxv);
  h.auxv_off = out.add(auxv.data(), auxv.size()).off;
  h.auxv_bytes = auxv.size();
  const char* cwd = image_.string(image_.process->cwd);
  h.cwd_off = out.add(cwd, strlen(cwd) + 1).off;
  snprintf(h.program, sizeof(h.program), "%s", image_.string(image_.process->exe_name));

  std::vector<format::SiginfoRecord> infos;
  std::vector<format::PlanThread> threads;
  for (const format::ThreadRecord& t : image_.threads) {
    format::PlanThread p{};
    p.record = t;
    const auto frame = image_.blob(t.frame);
    p.frame_bytes = frame.size();
    p.frame_off = out.reserve(frame.size(), 64);
    memcpy(plan_.bytes.data() + p.frame_off, frame.data(), frame.size());
    const auto affinity = image_.blob(t.affinity);
    p.affinity_off = out.add(affinity.data(), affinity.size()).off;
    add_traits(out, p);
    p.siginfo_first = infos.size();
    for (const format::SiginfoRecord& i : image_.siginfos) {
      if (i.tid == t.tid && !halts(i)) infos.push_back(i);
    }
    p.siginfo_count = infos.size() - p.siginfo_first;
    threads.push_back(p);
  }
  for (const format::SiginfoRecord& i : image_.siginfos) {
    if (i.tid == 0 && !halts(i)) infos.push_back(i);
  }
  h.siginfos = out.add(infos.data(), infos.size());
  h.threads = out.add(threads.data(), threads.size());
  out.reserve(0, kPageSize);
  h.bytes = plan_.bytes.size();
  uint64_t end = h.bytes;  // stacks lie behind the plan in the region, they are not sent
  auto* placed = reinterpret_cast<format::PlanThread*>(plan_.bytes.data() + h.threads.off);
  for (uint64_t i = 0; i < h.threads.count; i++) {
    end += format::kRestorerStackBytes;
    placed[i].stack_top_off = end;
  }
  h.payload_off = image_.super.payload_off;
  h.fill_workers = fill_workers(h.fill_pages);
  const auto* sums = reinterpret_cast<const uint8_t*>(image_.checksums.data());
  const uint64_t table = sums == nullptr ? 0 : static_cast<uint64_t>(sums - image_.file);
  h.sums_file_off = page_floor(table);
  h.sums_skip = table - h.sums_file_off;
  h.sums_map_bytes = page_ceil(h.sums_skip + image_.checksums.size_bytes() + 1);
  h.sums_area_off = end;
  end += h.sums_map_bytes;
  h.fill_area_off = end;
  end += h.fill_workers * format::kFillAreaBytes;
  if (h.lazy_fills.count > 0) {
    h.lazy_area_off = end;
    const char* pause = getenv("CR_LAZY_PAUSE_US");  // tests: that much happens before all is there
    h.lazy_pause_ns =
        pause == nullptr ? 0 : std::min(strtoull(pause, nullptr, 10), 999999ull) * 1000;
    h.lazy_room = h.lazy_fills.count + format::kSpareLazyRuns;
    end +=
        format::kLazyAreaBytes + h.lazy_room * format::kMostLazyContexts * sizeof(format::PlanFill);
  }
  h.region_bytes = end;
  h.received_fds = static_cast<uint32_t>(plan_.fds.size());
  memcpy(plan_.bytes.data(), &h, sizeof(h));
}

Trouble Planner::run() {
  if (options_.lazy) {
    const std::string why = why_not_lazy();
    options_.lazy = why.empty();
    if (!why.empty()) {
      plan_.warnings.push_back("--lazy is not possible here: " + why +
                               "; all memory is filled before the program runs");
    }
  }
  for (auto step : {&Planner::check_machine, &Planner::plan_program,
                    &Planner::put_changed_files_back, &Planner::plan_segments,
                    &Planner::check_pages, &Planner::plan_vdso, &Planner::put_semaphores_back}) {
    Trouble bad = (this->*step)();
    if (bad.bad()) return bad;
  }
  plan_.clocks = saved_clocks(image_);
  Trouble bad = check_memory();
  if (bad.bad()) return bad;
  const std::string stays = why_not_adopted(image_, pid_of(options_.live_pidfd));
  if (!stays.empty()) return trouble(Errc::kPermission, EPERM, stays);
  for (std::string& line : traits_that_differ(image_)) plan_.warnings.push_back(std::move(line));
  if (options_.live_pidfd >= 0 && !image_.posix_timers.empty() && !timer_ids_can_be_chosen()) {
    return trouble(Errc::kUnsupported, 0,
                   "before Linux 6.15 POSIX timers get their ids back in a new process only; end "
                   "this one, and use crrestore");
  }
  bad = objects_.fill();
  if (!bad.bad()) bad = open_files(image_, dir_, options_, objects_, plan_, &fds_);
  if (bad.bad()) return bad;
  const std::string locked = why_not_locked(image_, pid_of(options_.live_pidfd));
  if (!locked.empty()) return trouble(Errc::kUnsupported, EAGAIN, locked);
  write_out();
  return {};
}

}  // namespace

Trouble damaged_page(const store::LoadedImage& image, uint64_t addr, uint64_t slot) {
  char t[32];
  snprintf(t, sizeof(t), "0x%lx", static_cast<unsigned long>(addr));
  return trouble(Errc::kDamaged, 0,
                 image.path + ": damaged: the checksum of the page for address " + t + " (slot " +
                     std::to_string(slot) + ") is wrong");
}

Trouble make_restore_plan(const store::LoadedImage& image, const std::string& image_dir,
                          const PlanOptions& options, RestorePlan* ret_plan) {
  if ((image.view.process->flags & format::kProcessHeapOnly) != 0) {
    return trouble(Errc::kUnsupported, 0,
                   image_dir +
                       ": this image holds a heap without a process: a program opens it "
                       "with crheap_open()");
  }
  return Planner(image, image_dir, options, *ret_plan).run();
}

}  // namespace cr::agent
