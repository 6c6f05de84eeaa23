// SPDX-License-Identifier: MIT
// restore_plan.cc - see restore_plan.h. Invariant: as there. Context: N (agent).
#include "agent/restore_plan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "agent/frame.h"
#include "agent/restore_files.h"
#include "agent/vdso.h"
#include "format/checksum.h"

namespace cr::agent {
namespace {

class Planner {
 public:
  Planner(const store::LoadedImage& loaded, const std::string& dir, int live_pidfd,
          RestorePlan& plan)
      : loaded_(loaded), image_(loaded.view), dir_(dir), live_pidfd_(live_pidfd), plan_(plan) {}
  Trouble run();

 private:
  Trouble check_machine();
  Trouble check_pages();
  Trouble plan_segments();
  Trouble plan_file_segment(const format::SegmentRecord& s);
  Trouble plan_vdso();
  Trouble plan_program();
  bool add_fills(const format::SegmentRecord& s, const os::Mapping* file, uint64_t file_bytes);
  void add_fill(uint64_t addr, uint64_t bytes, uint64_t off);
  int send_file(const std::string& path, int fd);
  void write_out();
  uint64_t find_parking(uint64_t bytes) const;

  const store::LoadedImage& loaded_;
  const format::ImageView& image_;
  const std::string& dir_;
  int live_pidfd_;
  RestorePlan& plan_;
  format::PlanHeader header_{};
  std::vector<format::PlanMap> maps_;
  std::vector<format::PlanFill> fills_;
  std::vector<format::PlanVdsoPatch> patches_;
  std::vector<format::PlanFd> fds_;
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

Trouble Planner::check_pages() {
  uint64_t slot = 0;
  const uint64_t addr = store::verify_pages(image_, &slot, plan_.on_verify);
  if (addr == 0) return {};
  char t[32];
  snprintf(t, sizeof(t), "0x%lx", static_cast<unsigned long>(addr));
  return trouble(Errc::kDamaged, 0,
                 loaded_.path + ": damaged: the checksum of the page for address " + t + " (slot " +
                     std::to_string(slot) + ") is wrong");
}

int Planner::send_file(const std::string& path, int fd) {
  auto it = sent_.find(path);
  if (it != sent_.end()) return it->second;
  const int index = static_cast<int>(plan_.fds.size());
  plan_.fds.push_back(os::Fd(fcntl(fd, F_DUPFD_CLOEXEC, 0)));
  sent_[path] = index;
  return index;
}

void Planner::add_fill(uint64_t addr, uint64_t bytes, uint64_t off) {
  if (!fills_.empty()) {
    format::PlanFill& f = fills_.back();
    const bool zero = off == format::kFillZero;
    if (f.addr + f.bytes == addr &&
        (zero ? f.image_off == off
              : f.image_off != format::kFillZero && f.image_off + f.bytes == off)) {
      f.bytes += bytes;
      return;
    }
  }
  fills_.push_back({addr, bytes, off});
}

// What the segment's memory needs from the image; false: nothing. Pages that the file holds just so
// are left to it.
bool Planner::add_fills(const format::SegmentRecord& s, const os::Mapping* file,
                        uint64_t file_bytes) {
  bool any = false;
  auto it = std::lower_bound(image_.extents.begin(), image_.extents.end(), s.start,
                             [](const format::ExtentRecord& e, uint64_t a) { return e.addr < a; });
  for (; it != image_.extents.end() && it->addr < s.end; ++it) {
    if (it->slot == format::kSlotZero) {
      if (file == nullptr) continue;
      add_fill(it->addr, it->pages * kPageSize, format::kFillZero);
      any = true;
      continue;
    }
    const uint64_t off = image_.super.payload_off + it->slot * kPageSize;
    if (file == nullptr) {
      add_fill(it->addr, it->pages * kPageSize, off);
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
      add_fill(addr, kPageSize, off + p * kPageSize);
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
    fd = os::Fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd && (fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode))) fd.reset();
  }
  const int64_t mtime = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
  const bool embedded = (s.flags & format::kSegmentEmbedded) != 0;
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
  m.file = send_file(path, fd.get());
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

Trouble Planner::plan_segments() {
  for (const format::SegmentRecord& s : image_.segments) {
    if (s.kind == format::kSegmentVdso || s.kind == format::kSegmentVvar) continue;
    if (s.kind == format::kSegmentFile || s.kind == format::kSegmentFileShared) {
      Trouble bad = plan_file_segment(s);
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
    m.fill = add_fills(s, nullptr, 0) ? 1 : 0;
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

void Planner::write_out() {
  Bytes out(plan_.bytes);
  out.reserve(sizeof(format::PlanHeader), 16);
  format::PlanHeader& h = header_;
  h.magic = format::kPlanMagic;
  h.process = *image_.process;
  // Ascending, so that no mapping can be taken for an obstacle by MAP_GROWSDOWN's guard gap.
  std::sort(maps_.begin(), maps_.end(),
            [](const format::PlanMap& a, const format::PlanMap& b) { return a.addr < b.addr; });
  h.maps = out.add(maps_.data(), maps_.size());
  h.fills = out.add(fills_.data(), fills_.size());
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
    p.siginfo_first = infos.size();
    for (const format::SiginfoRecord& i : image_.siginfos) {
      if (i.tid == t.tid) infos.push_back(i);
    }
    p.siginfo_count = infos.size() - p.siginfo_first;
    threads.push_back(p);
  }
  for (const format::SiginfoRecord& i : image_.siginfos) {
    if (i.tid == 0) infos.push_back(i);
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
  h.region_bytes = end;
  h.received_fds = static_cast<uint32_t>(plan_.fds.size());
  memcpy(plan_.bytes.data(), &h, sizeof(h));
}

Trouble Planner::run() {
  for (auto step : {&Planner::check_machine, &Planner::check_pages, &Planner::plan_program,
                    &Planner::plan_segments, &Planner::plan_vdso}) {
    Trouble bad = (this->*step)();
    if (bad.bad()) return bad;
  }
  Trouble bad = open_files(image_, dir_, live_pidfd_, plan_, &fds_);
  if (bad.bad()) return bad;
  write_out();
  return {};
}

}  // namespace

Trouble make_restore_plan(const store::LoadedImage& image, const std::string& image_dir,
                          int live_pidfd, RestorePlan* ret_plan) {
  if ((image.view.process->flags & format::kProcessHeapOnly) != 0) {
    return trouble(Errc::kUnsupported, 0,
                   image_dir +
                       ": this image holds a heap without a process: a program opens it "
                       "with crheap_open()");
  }
  return Planner(image, image_dir, live_pidfd, *ret_plan).run();
}

}  // namespace cr::agent
