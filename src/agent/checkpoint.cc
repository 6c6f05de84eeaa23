// SPDX-License-Identifier: MIT
// checkpoint.cc - one checkpoint from trigger to commit.
// Invariant: whatever fails, the program runs on unchanged and the older whole buffer is untouched.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One checkpoint".
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "agent/describe_files.h"
#include "agent/frame.h"
#include "agent/rollback_memory.h"
#include "agent/session.h"
#include "os/fault.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kCommandTimeoutNs = 600ull * 1000000000;
constexpr uint64_t kKeepStagingBytes = 32ull << 20;

uint64_t now_ns() { return rawsys::clock_ns(CLOCK_MONOTONIC); }

// Through a thread that lives: the main thread may have ended, and then shows nothing.
std::string task_path(pid_t pid, pid_t tid, const char* what) {
  return "/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/" + what;
}

uint64_t kilobytes(const std::string& text, const char* field) {
  return strtoull(os::status_field(text, field).c_str(), nullptr, 10) << 10;
}

// Last of the numbers in a field such as NSpid: the one the program itself sees.
int32_t innermost(const std::string& status, const char* field) {
  const std::string v = os::status_field(status, field);
  const size_t at = v.find_last_of(" \t");
  return static_cast<int32_t>(
      strtol((at == std::string::npos ? v : v.substr(at + 1)).c_str(), nullptr, 10));
}

std::string read_or_empty(const std::string& path) {
  auto r = os::read_file(path);
  return r ? *r : "";
}

// A program that has children cannot be saved alone: they would be lost, or wait for ever.
Trouble check_children(pid_t pid) {
  auto tasks = os::list_tasks(pid);
  if (!tasks) return {};
  for (const pid_t tid : *tasks) {
    const std::string kids = read_or_empty(task_path(pid, tid, "children"));
    if (kids.empty()) continue;
    const std::string first = kids.substr(0, kids.find(' '));
    std::string name = read_or_empty("/proc/" + first + "/comm");
    if (!name.empty()) name.pop_back();
    return trouble(
        Errc::kUnsupported, 0,
        "child process " + first + " (" + name +
            "): process trees cannot be saved yet; checkpoint when it has ended and been "
            "waited for");
  }
  return {};
}

uint64_t available_memory() { return kilobytes(read_or_empty("/proc/meminfo"), "MemAvailable"); }

}  // namespace

Trouble Session::check_process(const World&) const {
  Trouble bad = check_children(pid_);
  if (bad.bad()) return bad;
  if (!read_or_empty("/proc/" + std::to_string(pid_) + "/timers").empty()) {
    return trouble(Errc::kUnsupported, 0,
                   "POSIX timer (timer_create): cannot be saved yet; delete it before the "
                   "checkpoint, or use setitimer");
  }
  const std::string theirs = read_or_empty(task_path(pid_, control_tid_, "status"));
  const std::string ours = read_or_empty("/proc/self/status");
  for (const char* f : {"Uid", "Gid", "CapEff"}) {
    // In a namespace of its own, or under a crrestore with a file capability, these differ anyway.
    if (strcmp(f, "CapEff") == 0 &&
        (geteuid() != 0 ||
         os::status_field(theirs, "NSpid").find_first_of(" \t") != std::string::npos)) {
      continue;
    }
    if (os::status_field(theirs, f) != os::status_field(ours, f)) {
      return trouble(Errc::kUnsupported, 0,
                     std::string("the program changed its credentials (") + f +
                         "): that cannot be saved yet; checkpoint before it does");
    }
  }
  if (os::status_field(theirs, "Seccomp_filters") != os::status_field(ours, "Seccomp_filters")) {
    return trouble(Errc::kUnsupported, 0,
                   "the program installed a seccomp filter: that cannot be saved yet");
  }
  auto root = os::read_link(task_path(pid_, control_tid_, "root"));
  auto our_root = os::read_link("/proc/self/root");
  if (root && our_root && *root != *our_root) {
    return trouble(Errc::kUnsupported, 0, "the program called chroot: that cannot be saved");
  }
  return {};
}

// Room for everything the stop may produce, reserved before it; less than that if memory is short,
// then the pause includes writing.
Trouble Session::prepare_staging(uint64_t* ret_pages) {
  const std::string status = read_or_empty(task_path(pid_, control_tid_, "status"));
  uint64_t need =
      kilobytes(status, "RssAnon") + kilobytes(status, "RssShmem") + kilobytes(status, "VmSwap");
  // Program text and small files are captured whole.
  auto maps = os::parse_maps(read_or_empty(task_path(pid_, control_tid_, "maps")));
  if (maps) {
    for (const os::MapEntry& m : *maps) {
      if (m.ino != 0 && !m.shared) need += std::min(m.end - m.start, 4 * kEmbedFileBytes);
    }
  }
  need += need / 16 + (8ull << 20);
  // Of what changes only. Should it be more, it is captured in portions.
  if (last_is_basis_) need = std::min(need, std::max(4 * staged_bytes_, kKeepStagingBytes));
  staged_bytes_ = 0;
  uint64_t bound = options_.staging_bytes != 0 ? options_.staging_bytes : available_memory() / 2;
  bound = std::max<uint64_t>(bound, 4ull << 20);
  need = page_ceil(std::min(need, bound));
  struct stat st;
  if (fstat(staging_fd_.get(), &st) != 0) return trouble(Errc::kSystem, errno, "staging memory");
  if (static_cast<uint64_t>(st.st_size) < need) {
    staging_map_.reset();
    if (ftruncate(staging_fd_.get(), static_cast<off_t>(need)) != 0) {
      return trouble(Errc::kNoMemory, errno,
                     std::string("staging memory cannot grow: ") + strerror(errno));
    }
  }
  if (fallocate(staging_fd_.get(), 0, 0, static_cast<off_t>(need)) != 0) {
    return trouble(
        Errc::kNoMemory, errno,
        "no memory for staging " + std::to_string(need >> 20) + " MiB; use --staging to bound it");
  }
  if (!staging_map_ || staging_map_.size() < need) {
    auto m = os::Mapping::map(staging_fd_.get(), need, PROT_READ, MAP_SHARED);
    if (!m) return trouble(Errc::kNoMemory, m.error().sys_errno, "mapping staging memory");
    staging_map_ = std::move(*m);
  }
  *ret_pages = need / kPageSize;
  return {};
}

namespace {

// Inside a restartable sequence: the kernel would have aborted it when the thread was preempted.
void abort_rseq(const World& world, Thread& t, store::Model& model) {
  if (t.rseq_addr == 0) return;
  uint64_t cs_addr = 0;
  struct {
    uint32_t version, flags;
    uint64_t start_ip, post_commit_offset, abort_ip;
  } cs{};
  if (!world.read_memory(t.rseq_addr + 8, &cs_addr, 8) || cs_addr == 0 ||
      !world.read_memory(cs_addr, &cs, sizeof(cs)) ||
      t.saved.rip - cs.start_ip >= cs.post_commit_offset) {
    return;
  }
  t.saved.rip = cs.abort_ip;
  const uint64_t none = 0;
  model.overlays.push_back({t.rseq_addr + 8, model.add_blob(&none, sizeof(none))});
}

Trouble describe_thread(const World& world, Thread& t, store::Model& model) {
  abort_rseq(world, t, model);
  auto frame = make_frame(t.saved, t.xstate, t.sigmask, t.report);
  if (!frame) {
    return trouble(
        frame.error().code, 0,
        "thread " + std::to_string(t.inner_tid) + ": " + frame.error().what + " cannot be saved");
  }
  format::ThreadRecord r{};
  r.tid = t.inner_tid;
  r.flags = (t.leader ? format::kThreadLeader : 0) |
            (t.report.no_new_privs != 0 ? format::kThreadNoNewPrivs : 0) |
            (t.report.keepcaps != 0 ? format::kThreadKeepCaps : 0);
  r.pdeathsig = t.report.pdeathsig;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(t.tid, sizeof(cpus), &cpus) == 0) {
    r.affinity = model.add_blob(&cpus, sizeof(cpus));
  }
  r.fs_base = t.regs.fs_base;
  r.gs_base = t.regs.gs_base;
  r.clear_child_tid = t.report.clear_child_tid;
  r.robust_list = t.report.robust_list;
  r.robust_list_bytes = t.report.robust_list_bytes;
  r.rseq_addr = t.rseq_addr;
  r.rseq_bytes = t.rseq_bytes;
  r.rseq_signature = t.rseq_signature;
  r.timer_slack_ns = t.report.timer_slack_ns;
  r.frame = model.add_blob(frame->data(), frame->size());
  r.syscall_nr = t.syscall_nr;
  memcpy(r.name, t.report.name, sizeof(r.name));
  r.name[15] = 0;
  r.sched_policy = std::max(0, sched_getscheduler(t.tid)) & 0xff;
  sched_param sp{};
  if (sched_getparam(t.tid, &sp) == 0) r.sched_priority = sp.sched_priority;
  errno = 0;
  r.nice = getpriority(PRIO_PROCESS, static_cast<id_t>(t.tid));
  model.threads.push_back(r);
  for (const siginfo_t& s : t.pending) {
    format::SiginfoRecord i{};
    i.tid = t.inner_tid;
    memcpy(i.info, &s, sizeof(i.info));
    model.siginfos.push_back(i);
  }
  for (const Poke& p : t.saved_pokes) {
    model.overlays.push_back({p.addr, model.add_blob(p.bytes.data(), p.bytes.size())});
  }
  return {};
}

void describe_mm(const os::Stat& stat, uint64_t brk, format::MmRecord& mm) {
  mm.start_code = stat.start_code;
  mm.end_code = stat.end_code;
  mm.start_data = stat.start_data;
  mm.end_data = stat.end_data;
  mm.start_brk = stat.start_brk;
  mm.brk = brk;
  mm.start_stack = stat.start_stack;
  mm.arg_start = stat.arg_start;
  mm.arg_end = stat.arg_end;
  mm.env_start = stat.env_start;
  mm.env_end = stat.env_end;
}

}  // namespace

Trouble Session::describe_process(World& world, const MemoryPlan& plan, store::Model& model) {
  const format::Process& asked = channel()->process;
  format::ProcessRecord& p = model.process;
  const std::string status = read_or_empty(task_path(pid_, control_tid_, "status"));
  auto stat = os::read_stat(pid_, control_tid_);
  auto exe = os::read_link(task_path(pid_, control_tid_, "exe"));
  auto cwd = os::read_link(task_path(pid_, control_tid_, "cwd"));
  if (status.empty() || !stat || !exe || !cwd) {
    return trouble(Errc::kUnsupported, errno, "/proc/" + std::to_string(pid_) + " cannot be read");
  }
  if (cwd->ends_with(" (deleted)")) {
    return trouble(Errc::kUnsupported, 0,
                   "the working directory was removed: that cannot be saved");
  }
  p.pid = innermost(status, "NStgid");
  p.ppid = stat->ppid;
  p.pgid = innermost(status, "NSpgid");
  p.sid = innermost(status, "NSsid");
  p.uid = static_cast<uint32_t>(strtoul(os::status_field(status, "Uid").c_str(), nullptr, 10));
  p.gid = static_cast<uint32_t>(strtoul(os::status_field(status, "Gid").c_str(), nullptr, 10));
  p.umask = static_cast<uint32_t>(strtoul(os::status_field(status, "Umask").c_str(), nullptr, 8));
  p.personality = static_cast<uint32_t>(
      strtoul(read_or_empty(task_path(pid_, control_tid_, "personality")).c_str(), nullptr, 16));
  p.flags = (world.leader_gone() ? format::kProcessLeaderGone : 0) |
            (asked.thp_disabled != 0 ? format::kProcessThpDisabled : 0) |
            (asked.child_subreaper != 0 ? format::kProcessChildSubreaper : 0);
  p.dumpable = asked.dumpable;
  p.control_tid = static_cast<uint32_t>(hello_.tid);
  p.program = model.add_string(*exe);
  p.exe_name = model.add_string(exe->substr(exe->find_last_of('/') + 1));
  p.cwd = model.add_string(*cwd);
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  p.hostname = model.add_string(host);
  utsname u{};
  uname(&u);
  p.kernel_release = model.add_string(u.release);
  const std::string cmdline = read_or_empty(task_path(pid_, control_tid_, "cmdline"));
  const std::string environ = read_or_empty(task_path(pid_, control_tid_, "environ"));
  const std::string auxv = read_or_empty(task_path(pid_, control_tid_, "auxv"));
  p.cmdline = model.add_blob(cmdline.data(), cmdline.size());
  p.environ = model.add_blob(environ.data(), environ.size());
  p.auxv = model.add_blob(auxv.data(), auxv.size());
  describe_mm(*stat, asked.brk, p.mm);
  p.cpu = this_cpu();
  memcpy(p.itimers, asked.itimers, sizeof(p.itimers));
  for (int i = 0; i < 16; i++) {
    rlimit rl{};
    prlimit(pid_, static_cast<__rlimit_resource>(i), nullptr, &rl);
    p.rlimits[i] = {rl.rlim_cur, rl.rlim_max};
  }
  p.interval_ms = static_cast<uint32_t>(std::min(4e9, options_.interval_seconds * 1000 + 0.5));
  p.control_entry = hello_.control_entry;
  p.control_stack_top = hello_.control_stack_top;
  p.control_state = hello_.state;
  p.control_state_bytes = hello_.state_bytes;
  p.vdso_start = plan.vdso_start;
  p.vdso_bytes = plan.vdso_bytes;
  p.vvar_start = plan.vvar_start;
  p.vvar_bytes = plan.vvar_bytes;
  model.sigactions.assign(asked.sigactions, asked.sigactions + 64);
  if (options_.heap != HeapMode::kNone) {
    p.flags = format::kProcessHeapOnly;
    return {};
  }
  for (Thread& t : world.threads()) {
    Trouble bad = describe_thread(world, t, model);
    if (bad.bad()) return bad;
  }
  for (const siginfo_t& s : world.shared_pending()) {
    format::SiginfoRecord i{};
    memcpy(i.info, &s, sizeof(i.info));
    model.siginfos.push_back(i);
  }
  return {};
}

namespace {
constexpr uint64_t kMostPages = uint64_t{1} << 35;  // of user memory
}

Trouble Session::open_writer(const format::SuperBlock& super) {
  if (writer_ != nullptr) return {};
  const int index = newest_ == 0 ? 1 : 0;
  auto w = store::BufferWriter::open(options_.dir, index, options_.durable, buffers_[index]);
  if (!w) {
    return trouble(w.error().code, w.error().sys_errno,
                   store::describe_error(store::buffer_path(options_.dir, index), w.error()));
  }
  writer_ = std::move(*w);
  auto r = writer_->begin(super);
  if (r && has_basis_) r = writer_->set_last(options_.dir, newest_, buffers_[newest_]);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(store::buffer_path(options_.dir, index), r.error()));
  }
  return {};
}

Trouble Session::append(store::Model& model, uint64_t run_count, std::vector<format::Run>* runs) {
  const format::ChannelHeader* c = channel();
  const auto* table = reinterpret_cast<const format::Run*>(channel_map_.data() + runs_off_);
  const uint64_t room = staging_map_.size() / kPageSize;
  runs->clear();
  for (uint64_t i = 0; i < std::min(run_count, c->runs_cap); i++) {
    const format::Run r = table[i];
    if (r.staging_page == format::kPagesSame) {
      if (r.addr % kPageSize != 0 || r.pages > kMostPages) {
        return trouble(Errc::kDamaged, 0, "the control thread answered nonsense");
      }
    } else if (r.staging_page > room || r.pages > room - r.staging_page) {
      return trouble(Errc::kDamaged, 0, "the control thread answered nonsense");
    } else {
      staged_bytes_ += r.pages * kPageSize;
    }
    runs->push_back(r);
  }
  auto keep_zero = [](void* context, uint64_t addr) {
    const auto& segments = static_cast<store::Model*>(context)->segments;
    auto it =
        std::upper_bound(segments.begin(), segments.end(), addr,
                         [](uint64_t a, const format::SegmentRecord& s) { return a < s.end; });
    return it != segments.end() && it->kind == format::kSegmentFile;
  };
  auto r = writer_->append(model, staging_map_.data(), *runs, keep_zero, &model);
  if (!r) {
    return trouble(r.error().code, r.error().sys_errno,
                   store::describe_error(options_.dir, r.error()));
  }
  return {};
}

// Everything between stop and go.
Trouble Session::capture(World& world, store::Model& model, format::SuperBlock* super,
                         std::vector<format::Run>* last_runs) {
  const bool heap_only = options_.heap != HeapMode::kNone;
  Trouble bad;
  if (!heap_only) bad = check_process(world);
  if (bad.bad()) return bad;
  const pid_t tid = world.threads()[0].tid;
  auto maps = os::parse_maps(read_or_empty(task_path(pid_, tid, "maps")));
  if (!maps) return trouble(Errc::kSystem, EIO, "the memory map cannot be read");
  for (const os::MapEntry& m : *maps) {
    if (m.name != "[vdso]" || m.start == vdso_start_) continue;
    vdso_start_ = m.start;
    vdso_end_ = m.end;
    return trouble(Errc::kCannotStop, EAGAIN, "the program moved its vDSO; try again");
  }
  bad = command(format::kCommandDescribe, kCommandTimeoutNs, &world);
  if (bad.bad()) return bad;
  if (!heap_only) bad = world.describe(channel()->process.sigactions);
  if (bad.bad()) return bad;
  fault_point(FaultPoint::kThreadsDescribed);
  MemoryPlan plan;
  // Those of now and those of the last checkpoint each cut ranges in two.
  plan.most_holes = std::min(plan.most_holes, most_ranges() / 8);
  if (heap_only) {
    bad = capture_heap(world, model, *maps, &plan);
    if (bad.bad()) return bad;
    bad = describe_process(world, plan, model);
    if (bad.bad()) return bad;
    return copy_pages(world, plan, model, super, last_runs);
  }
  format::Exclusions exclusions{};
  world.read_memory(hello_.exclusions, &exclusions, sizeof(exclusions));
  std::vector<FreeRange> without;
  for (uint64_t i = 0; i < std::min<uint64_t>(exclusions.count, 256); i++) {
    without.push_back({exclusions.ranges[i].start, exclusions.ranges[i].end});
  }
  for (const uint64_t word : hello_.heap_words)
    free_heap_ranges(world, word, /*own_lock=*/false, &without);
  bad = describe_memory(world, *maps, std::move(without), leftover_, model, &plan);
  if (bad.bad()) return bad;
  bad = describe_files(pid_, tid, pidfd_.get(), model);
  if (bad.bad()) return bad;
  bad = describe_process(world, plan, model);
  if (bad.bad()) return bad;
  return copy_pages(world, plan, model, super, last_runs);
}

// Which pages the control thread need not copy, because the last checkpoint has them.
void Session::plan_tracking(MemoryPlan& plan, const store::Model& model) {
  format::ChannelHeader* c = channel();
  const bool off = c->can_track == 0 || options_.tracking == TrackMode::kAll ||
                   getenv("CR_NO_PAGEMAP_SCAN") != nullptr;
  c->tracking = off              ? format::kTrackNothing
                : last_is_basis_ ? format::kTrackChanges
                                 : format::kTrackAnew;
  taken_ = {};
  taken_.without = plan.without;
  if (c->tracking != format::kTrackChanges) {
    for (format::Range& r : plan.ranges) r.fresh = 1;
    return;
  }
  // What was left out then is not in it: nobody knows what such a page holds.
  std::vector<format::Range> out;
  size_t first = 0;
  for (format::Range r : plan.ranges) {
    if (r.mode == format::kRangeEmbed) {
      r.fresh = last_has_file_part(model, r) ? 0 : 1;
      out.push_back(r);
      continue;
    }
    while (first < last_.without.size() && last_.without[first].end <= r.start) first++;
    for (size_t i = first; i < last_.without.size() && last_.without[i].start < r.end; i++) {
      const FreeRange& hole = last_.without[i];
      if (hole.end <= r.start) continue;
      format::Range part = r;
      if (hole.start > r.start) {
        part.end = hole.start;
        out.push_back(part);
      }
      part.start = std::max(r.start, hole.start);
      part.end = std::min(r.end, hole.end);
      part.fresh = 1;
      out.push_back(part);
      r.start = part.end;
    }
    if (r.start < r.end) out.push_back(r);
  }
  if (out.size() <= most_ranges()) {
    plan.ranges = std::move(out);
  } else {
    for (format::Range& r : plan.ranges) r.fresh = 1;
  }
}

// Room in the channel's table.
size_t Session::most_ranges() const {
  return (runs_off_ - format::kChannelRangesOff) / sizeof(format::Range);
}

// Did the last checkpoint have just the file's pages there, and is the file the same?
bool Session::last_has_file_part(const store::Model& model, const format::Range& r) const {
  const auto by_start = [](const format::SegmentRecord& s, uint64_t a) { return s.start < a; };
  const auto find = [&](const std::vector<format::SegmentRecord>& all) {
    const auto it = std::lower_bound(all.begin(), all.end(), r.map_start, by_start);
    return it != all.end() && it->start == r.map_start ? &*it : nullptr;
  };
  const format::SegmentRecord *now = find(model.segments), *then = find(last_.file_parts);
  if (now == nullptr || then == nullptr) return false;
  if (now->kind == format::kSegmentVdso) return then->kind == now->kind && then->end == now->end;
  // A file that was written in the same instant has the same time stamp.
  constexpr int64_t kSettledNs = 2000000000;
  return then->kind == now->kind && then->end == now->end && then->dev == now->dev &&
         then->ino == now->ino && then->file_off == now->file_off &&
         then->file_bytes == now->file_bytes && then->file_mtime_ns == now->file_mtime_ns &&
         ((then->flags | now->flags) & format::kSegmentDeleted) == 0 &&
         then->file_mtime_ns + kSettledNs < static_cast<int64_t>(last_.realtime_ns);
}

// After the capture: in which mappings of files no page was changed by the program.
void Session::note_file_parts(const store::Model& model) {
  const format::ChannelHeader* c = channel();
  const auto* ranges = reinterpret_cast<const format::Range*>(channel_map_.data() + c->ranges_off);
  size_t at = 0;
  for (uint64_t i = 0; i < c->range_count; i++) {
    const format::Range r = ranges[i];
    if (r.mode != format::kRangeEmbed || r.has_private != 0) continue;
    while (at < model.segments.size() && model.segments[at].start < r.map_start) at++;
    if (at < model.segments.size() && model.segments[at].start == r.map_start) {
      taken_.file_parts.push_back(model.segments[at]);
    }
  }
}

// Leaves the last chunk of pages in staging.
Trouble Session::copy_pages(World& world, MemoryPlan& plan, store::Model& model,
                            format::SuperBlock* super, std::vector<format::Run>* last_runs) {
  uint64_t heap = 0;
  world.read_memory(hello_.heap_words[0], &heap, sizeof(heap));
  for (format::SegmentRecord& s : model.segments) {
    if (s.start == heap) s.flags |= format::kSegmentHeap;
  }
  plan_tracking(plan, model);
  // From here on pages count as not written; only a commit makes them known.
  has_basis_ = last_is_basis_;
  last_is_basis_ = false;
  format::ChannelHeader* c = channel();
  if (plan.ranges.size() > most_ranges()) {
    return trouble(Errc::kUnsupported, E2BIG, "the program has too many mappings");
  }
  memcpy(channel_map_.data() + format::kChannelRangesOff, plan.ranges.data(),
         plan.ranges.size() * sizeof(format::Range));
  c->range_count = plan.ranges.size();
  c->cursor_range = c->cursor_addr = 0;
  c->use_pagemap_scan = getenv("CR_NO_PAGEMAP_SCAN") == nullptr ? c->use_pagemap_scan : 0;
  for (;;) {
    Trouble bad = command(format::kCommandCapture, kCommandTimeoutNs, &world);
    if (bad.bad()) return bad;
    if (c->more == 0) break;
    // Staging is full: this much must be written before the rest can be taken.
    bad = open_writer(*super);
    if (!bad.bad()) bad = append(model, c->run_count, last_runs);
    if (bad.bad()) return bad;
  }
  note_file_parts(model);
  fault_point(FaultPoint::kCaptured);
  return {};
}

Trouble Session::checkpoint(uint32_t then, format::Report* ret_report) {
  *ret_report = {};
  ret_report->kind = format::kMessageReport;
  attempts_++;
  const uint64_t begin = now_ns();
  auto take = [&]() -> Trouble {
    if (!attached()) {
      return trouble(
          Errc::kNotInitialised, 0,
          "the program has not attached: it did not load libcrpreload.so (yet), or it has ended");
    }
    uint64_t staging_pages = 0;
    Trouble bad = prepare_staging(&staging_pages);
    if (bad.bad()) return bad;
    channel()->staging_pages = staging_pages;
    finish_stop();
    const uint64_t lazy_free = lazy_free_count();
    fault_point(FaultPoint::kBeforeStop);

    store::Model model;
    format::SuperBlock super{};
    super.epoch = epoch_;
    super.sequence = sequence_ + 1;
    super.attempt = attempts_;
    memcpy(super.session_id, session_id_, sizeof(session_id_));
    std::vector<format::Run> runs;
    World world(pid_, control_tid_, hello_, pidfd_.get(), mem_.get(), channel(), unfinished_);
    world.set_last_resume(last_resume_ns_);
    world.set_vdso(vdso_start_, vdso_end_);
    world.set_restorer(leftover_.start, leftover_.start + leftover_.bytes);
    const uint64_t stop_begin = now_ns();
    super.monotonic_ns = stop_begin;
    super.realtime_ns = rawsys::clock_ns(CLOCK_REALTIME);
    bad = world.stop();
    if (!bad.bad()) {
      fault_point(FaultPoint::kStopped);
      bad = capture(world, model, &super, &runs);
    }
    died_ = died_ || world.died(&died_status_);
    // `stop`: the stop signal is pending when the threads are let go. `kill`: nothing runs on
    // before the image is whole.
    if (!bad.bad() && then == 1) kill(pid_, SIGSTOP);
    if (bad.bad() || then != 2) {
      world.resume();
      last_resume_ns_ = now_ns();
      died_ = died_ || world.died(&died_status_);
    }
    super.pause_ns = now_ns() - stop_begin;
    if (bad.bad()) return bad;
    fault_point(FaultPoint::kResumed);
    const uint64_t last_runs = channel()->run_count;
    if (leftover_.bytes != 0 && then != 2) {  // every thread was met outside of it
      channel()->arg0 = leftover_.start;
      channel()->arg1 = leftover_.bytes;
      if (!command(format::kCommandUnmap, 1000000000, nullptr).bad()) leftover_ = {};
    }
    auto smaps = os::parse_maps(read_or_empty(task_path(pid_, control_tid_, "smaps")));
    if (smaps) add_vm_flags(*smaps, model);
    bad = open_writer(super);
    if (!bad.bad()) bad = append(model, last_runs, &runs);
    if (bad.bad()) return bad;
    for (const format::SegmentRecord& s : model.segments) {
      if (s.prot != 0) super.memory_bytes += s.end - s.start;
    }
    auto r = writer_->commit(model, &super);
    if (!r)
      return trouble(r.error().code, r.error().sys_errno,
                     store::describe_error(options_.dir, r.error()));
    newest_ = newest_ == 0 ? 1 : 0;
    sequence_++;
    last_ = std::move(taken_);
    last_.realtime_ns = super.realtime_ns;
    last_.lazy_free = lazy_free;
    last_is_basis_ = channel()->tracking != format::kTrackNothing;
    image_bytes_ = writer_->bytes_written();
    pause_ns_ = super.pause_ns;
    commit_ns_ = now_ns() - begin;
    realtime_ns_ = super.realtime_ns;
    if (then == 1) frozen_ = true;
    if (then == 2) {
      kill(pid_, SIGKILL);
      world.resume();
      died_ = died_ || world.died(&died_status_);
    }
    return {};
  };
  Trouble bad = take();
  writer_.reset();
  if (staging_map_ && staging_map_.size() > kKeepStagingBytes) {
    fallocate(staging_fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              static_cast<off_t>(kKeepStagingBytes),
              static_cast<off_t>(staging_map_.size() - kKeepStagingBytes));
  }
  if (bad.bad()) failures_++;
  publish(bad.text);
  ret_report->code = static_cast<int32_t>(bad.error.code);
  ret_report->sys_errno = bad.error.sys_errno;
  ret_report->epoch = epoch_;
  ret_report->sequence = sequence_;
  ret_report->image_bytes = image_bytes_;
  ret_report->pause_ns = pause_ns_;
  ret_report->commit_ns = commit_ns_;
  rawsys::str_copy(ret_report->text, bad.text.c_str(), sizeof(ret_report->text));
  return bad;
}

}  // namespace cr::agent
