// SPDX-License-Identifier: MIT
// describe_process.cc - what the image says of the stopped process and its threads, and what of it
// cannot be saved.
// Invariant: what cannot be saved refuses the checkpoint with its name.
// Context: N (agent), while the program is stopped.
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "agent/frame.h"
#include "agent/process_tree.h"
#include "agent/session.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

// What getppid() says: 0 if the parent is in an outer pid namespace, as the one that made it is.
int32_t parent_as_seen(const std::string& status, pid_t ppid) {
  if (!os::in_pid_namespace(status)) return ppid;
  const std::string parent = os::read_or_empty(os::task_path(ppid, ppid, "status"));
  const auto depth = [](const std::string& of) {
    return std::ranges::count(os::status_field(of, "NStgid"), '\t');
  };
  if (depth(parent) < depth(status)) return 0;
  return os::innermost_id(parent, "NStgid");
}

// A program that has children cannot be saved alone: they would be lost, or wait for ever.
Trouble check_children(pid_t pid) {
  const std::vector<pid_t> children = children_of(pid);
  if (children.empty()) return {};
  return trouble(Errc::kUnsupported, kHasChildrenErrno,
                 "child " + name_of_process(children[0]) +
                     ": a session that was begun by crinit() is of one process; start the program "
                     "by crrun, or checkpoint when the child has ended and been waited for");
}

}  // namespace

Trouble Session::check_process(bool childless, std::string* ret_status) {
  Trouble bad = in_tree_ || childless ? Trouble{} : check_children(pid_);
  if (bad.bad()) return bad;
  if (own_status_.empty()) own_status_ = os::read_or_empty("/proc/self/status");
  *ret_status = os::read_or_empty(os::task_path(pid_, control_tid_, "status"));
  const std::string &theirs = *ret_status, &ours = own_status_;
  for (const char* f : {"Uid", "Gid", "CapEff"}) {
    // In a namespace of its own, or under a crrestore with a file capability, these differ anyway.
    if (strcmp(f, "CapEff") == 0 && (geteuid() != 0 || os::in_pid_namespace(theirs))) {
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
  auto root = os::read_link(os::task_path(pid_, control_tid_, "root"));
  if (own_root_.empty()) {
    auto ours_now = os::read_link("/proc/self/root");
    if (ours_now) own_root_ = *ours_now;
  }
  if (root && !own_root_.empty() && *root != own_root_) {
    return trouble(Errc::kUnsupported, 0, "the program called chroot: that cannot be saved");
  }
  return {};
}

namespace {

// What was written below the lowest page of a stack has made the mapping grow, down to its page,
// after the map was read. Its new pages hold nothing else.
bool make_room_for(const Poke& p, store::Model& model) {
  const uint64_t end = p.addr + p.bytes.size();
  for (size_t i = 0; i < model.segments.size(); i++) {
    format::SegmentRecord& s = model.segments[i];
    if (s.start <= p.addr && end <= s.end) return true;
    const uint64_t below = i > 0 ? model.segments[i - 1].end : 0;
    const bool grows = s.kind == format::kSegmentStack && p.addr < s.start && end <= s.end;
    if (!grows || page_floor(p.addr) < below) continue;
    s.start = page_floor(p.addr);
    return true;
  }
  return false;
}

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
    if (!make_room_for(p, model)) {
      return trouble(Errc::kCannotStop, EAGAIN,
                     "thread " + std::to_string(t.inner_tid) +
                         " waits in a timed call at the very end of its stack; try again");
    }
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

void Session::read_lasting() {
  if (lasting_known_) return;
  lasting_known_ = true;
  LastingFacts& f = lasting_;
  f.cmdline = os::read_or_empty(os::task_path(pid_, control_tid_, "cmdline"));
  f.environ = os::read_or_empty(os::task_path(pid_, control_tid_, "environ"));
  f.auxv = os::read_or_empty(os::task_path(pid_, control_tid_, "auxv"));
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  f.hostname = host;
  utsname u{};
  uname(&u);
  f.kernel_release = u.release;
}

Trouble Session::describe_process(World& world, const std::string& status, const MemoryPlan& plan,
                                  store::Model& model) {
  const format::Process& asked = channel()->process;
  format::ProcessRecord& p = model.process;
  auto stat = os::read_stat(pid_, control_tid_);
  auto exe = os::read_link(os::task_path(pid_, control_tid_, "exe"));
  auto cwd = os::read_link(os::task_path(pid_, control_tid_, "cwd"));
  if (status.empty() || !stat || !exe || !cwd) {
    return trouble(Errc::kUnsupported, errno, "/proc/" + std::to_string(pid_) + " cannot be read");
  }
  if (cwd->ends_with(" (deleted)")) {
    return trouble(Errc::kUnsupported, 0,
                   "the working directory was removed: that cannot be saved");
  }
  p.pid = os::innermost_id(status, "NStgid");
  p.ppid = parent_as_seen(status, stat->ppid);
  p.pgid = os::innermost_id(status, "NSpgid");
  p.sid = os::innermost_id(status, "NSsid");
  p.uid = static_cast<uint32_t>(strtoul(os::status_field(status, "Uid").c_str(), nullptr, 10));
  p.gid = static_cast<uint32_t>(strtoul(os::status_field(status, "Gid").c_str(), nullptr, 10));
  p.umask = static_cast<uint32_t>(strtoul(os::status_field(status, "Umask").c_str(), nullptr, 8));
  p.personality = world.threads()[0].report.personality;
  p.flags = (world.leader_gone() ? format::kProcessLeaderGone : 0) |
            (asked.thp_disabled != 0 ? format::kProcessThpDisabled : 0) |
            (asked.child_subreaper != 0 ? format::kProcessChildSubreaper : 0);
  p.dumpable = asked.dumpable;
  p.control_tid = static_cast<uint32_t>(hello_.tid);
  p.program = model.add_string(*exe);
  p.exe_name = model.add_string(exe->substr(exe->find_last_of('/') + 1));
  p.cwd = model.add_string(*cwd);
  p.hostname = model.add_string(lasting_.hostname);
  p.kernel_release = model.add_string(lasting_.kernel_release);
  p.cmdline = model.add_blob(lasting_.cmdline.data(), lasting_.cmdline.size());
  p.environ = model.add_blob(lasting_.environ.data(), lasting_.environ.size());
  p.auxv = model.add_blob(lasting_.auxv.data(), lasting_.auxv.size());
  describe_mm(*stat, asked.brk, p.mm);
  p.cpu = this_cpu();
  memcpy(p.itimers, asked.itimers, sizeof(p.itimers));
  memcpy(p.rlimits, asked.rlimits, sizeof(p.rlimits));
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

}  // namespace cr::agent
