// SPDX-License-Identifier: MIT
// world.cc - see world.h.
// Invariant: as there. PTRACE_SEIZE and PTRACE_INTERRUPT are used because a stop by a signal would
// make a dozen system calls return EINTR, and because a thread that blocks every signal stops too.
// Context: N (agent).
#include "agent/world.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ptrace.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "agent/frame.h"
#include "format/plan.h"
#include "os/fault.h"
#include "os/proc.h"
#include "os/slice.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint64_t kStopTimeoutNs = 3000000000ull;
constexpr int kLookRounds = 32;  // of yielding, before another look whether the thread lives
constexpr int kLookWaits = 8;    // the same, of waiting for SIGCHLD
constexpr int kNtX86Xstate = 0x202;
constexpr int kMostAhead = 32;  // threads, of all processes together, of which files are open
constinit int g_opened_ahead = 0;
constexpr int kPtraceEventStop = 128;

// The call itself: glibc types the requests with an enum that lacks the newer ones.
template <typename A, typename D>
long trace(long request, pid_t tid, A addr, D data) {
  const long r = rawsys::sys(__NR_ptrace, request, tid, addr, data);
  if (r >= 0) return r;
  errno = static_cast<int>(-r);
  return -1;
}

std::string thread_text(pid_t pid, pid_t tid) {
  auto comm = os::read_file(os::task_path(pid, tid, "comm"));
  std::string name = comm ? *comm : "?";
  if (!name.empty() && name.back() == '\n') name.pop_back();
  return "thread " + std::to_string(tid) + " (" + name + ")";
}

constexpr int kSpinRounds = 5;

// The program stands still, and waits for us: we run as soon as we are woken, and a sleep lasts as
// long as asked for, not 50 microseconds more. Else it comes first.
void be_urgent(bool on) {
  os::set_slice(0, on ? os::Slice::kShort : os::Slice::kLong);
  prctl(PR_SET_TIMERSLACK, on ? 1ul : 0ul);  // 0: as it was
}

}  // namespace

// The thread may be waiting for this very processor. A sleep of a few microseconds does not give it
// away: it is over before the kernel has changed to another thread.
void let_run(int round) {
  constexpr int kYieldRounds = 400;
  if (round < kSpinRounds) return;
  if (round < kYieldRounds) {
    sched_yield();
    return;
  }
  const timespec ts{0, 50000};
  nanosleep(&ts, nullptr);
}

Trouble trouble(Errc code, int sys_errno, std::string text) {
  return {Error{code, sys_errno, ""}, std::move(text)};
}

std::string read_status(pid_t pid, const Thread& t) {
  char text[4096];
  const ssize_t n = t.status_fd ? pread(t.status_fd.get(), text, sizeof(text), 0) : -1;
  // One with very many groups is longer.
  if (n > 0 && n < static_cast<ssize_t>(sizeof(text))) return {text, static_cast<size_t>(n)};
  return os::read_or_empty(os::task_path(pid, t.tid, "status"));
}

namespace {

// Why a process's threads cannot be listed.
Trouble no_list(const Error& e) {
  if (e.sys_errno == ENOENT || e.sys_errno == ESRCH) {
    return trouble(Errc::kCannotStop, ESRCH, "the program has ended");
  }
  return trouble(Errc::kSystem, e.sys_errno,
                 std::string(e.what) + ": " + strerror(e.sys_errno) + "; try again");
}

}  // namespace

bool World::died(int* ret_status) const {
  if (dead_) *ret_status = dead_status_;
  return dead_;
}

bool World::read_memory(uint64_t addr, void* to, size_t bytes) const {
  return rawsys::read_all_at(mem_, to, bytes, addr) == 0;
}

bool World::write_memory(uint64_t addr, const void* from, size_t bytes) const {
  return rawsys::write_all_at(mem_, from, bytes, addr) == 0;
}

World::~World() {
  resume();
  g_opened_ahead -= opened_ahead_;
}

void World::open_ahead(Thread& t) {
  if (g_opened_ahead == kMostAhead) return;
  g_opened_ahead++;
  opened_ahead_++;
  const std::string dir = os::task_path(pid_, t.tid, "");
  t.status_fd = os::Fd(open((dir + "status").c_str(), O_RDONLY | O_CLOEXEC));
  t.namespaces_fd = os::Fd(open((dir + "ns").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
}

BeforeStop World::look(pid_t tid) const {
  BeforeStop before = look_before_stop(pid_, tid);
  if (last_resume_ns_ != 0) {
    const uint64_t since = rawsys::now_ns() - last_resume_ns_;
    before.asleep_ns = std::min(before.asleep_ns, since);
  }
  return before;
}

// Such a thread cannot be stopped before its child has called exec or ended.
bool World::waits_in_vfork(const Thread& t) const {
  if (t.before.syscall_nr == __NR_vfork) return true;
  uint64_t flags = t.before.first_arg;
  if (t.before.syscall_nr == __NR_clone3 && !read_memory(flags, &flags, sizeof(flags)))
    return false;
  const bool clones = t.before.syscall_nr == __NR_clone || t.before.syscall_nr == __NR_clone3;
  return clones && (flags & CLONE_VFORK) != 0;
}

// Seizes and interrupts the threads that are not known yet. A thread may end at any moment.
Trouble World::seize_new(bool* ret_any) {
  *ret_any = false;
  auto tasks = os::list_tasks(pid_);
  if (!tasks) return no_list(tasks.error());
  // All are looked at before the first is stopped: that takes longer than stopping.
  std::vector<Thread> fresh;
  for (const pid_t tid : *tasks) {
    if (tid == control_tid_ || (tid == pid_ && leader_gone_)) continue;
    const bool known = std::ranges::any_of(threads_, [&](const Thread& t) { return t.tid == tid; });
    if (known || std::ranges::count(io_workers_, tid) != 0) continue;
    Thread t;
    t.tid = tid;
    t.leader = tid == pid_;
    open_ahead(t);
    t.before = look(tid);
    // That is over soon, as a rule.
    constexpr int kPatience = 100;
    for (int round = 0; round < kPatience && waits_in_vfork(t); round++) {
      const timespec moment{0, 500000};
      nanosleep(&moment, nullptr);
      t.before = look(tid);
    }
    if (waits_in_vfork(t)) {
      return trouble(Errc::kCannotStop, EAGAIN,
                     thread_text(pid_, tid) + " waits in vfork for its child; try again later");
    }
    fresh.push_back(std::move(t));
  }
  // Those that are only seized run on.
  const size_t first = threads_.size();
  Trouble bad;
  for (size_t i = 0; i < fresh.size() && !bad.bad(); i++) {
    bool ended = false;
    bad = seize(fresh[i].tid, &ended);
    if (!bad.bad() && !ended) threads_.push_back(std::move(fresh[i]));
  }
  *ret_any = threads_.size() > first;
  if (stopping_since_ns_ == 0 && *ret_any) stopping_since_ns_ = rawsys::now_ns();
  for (size_t i = first; i < threads_.size(); i++) {
    trace(PTRACE_INTERRUPT, threads_[i].tid, nullptr, nullptr);
  }
  return bad;
}

Trouble World::seize(pid_t tid, bool* ret_ended) {
  *ret_ended = false;
  if (trace(PTRACE_SEIZE, tid, nullptr, nullptr) == 0) return {};
  const int cause = errno;
  // A thread that has just ended is refused with EPERM.
  const auto now = os::read_stat(pid_, tid);
  const bool zombie = now && (now->state == 'Z' || now->state == 'X');
  if (cause == ESRCH || !now || zombie) {
    *ret_ended = true;
    if (tid == pid_ && zombie) leader_gone_ = true;  // main called pthread_exit
    return {};
  }
  const std::string tracer =
      os::status_field(os::read_or_empty(os::task_path(pid_, tid, "status")), "TracerPid");
  if (tracer != "0" && !tracer.empty()) {
    return trouble(Errc::kCannotStop, EPERM,
                   thread_text(pid_, tid) + " is traced by process " + tracer +
                       " (a debugger or strace); end it, then try again");
  }
  return trouble(Errc::kPermission, cause,
                 thread_text(pid_, tid) +
                     " may not be stopped: ptrace is refused (see /proc/sys/kernel/yama/"
                     "ptrace_scope, seccomp, or PR_SET_DUMPABLE)");
}

void World::note_end(Thread& t, int status) {
  if (t.leader) {
    dead_ = true;
    dead_status_ = status;
  }
  t.tid = 0;
}

// The end of a process's first thread is not reported while other threads are left, be they zombies
// that wait for us.
bool World::has_ended_unreported(Thread& t) {
  if (!t.leader) return false;
  const auto stat = os::read_stat(pid_, t.tid);
  if (stat && stat->state != 'Z' && stat->state != 'X') return false;
  // Where this process has no descriptor left, say, nothing is known of it.
  if (!stat && stat.error().sys_errno != ENOENT && stat.error().sys_errno != ESRCH) return false;
  leader_gone_ = leader_unburied_ = true;
  t.tid = 0;
  return true;
}

bool World::has_ended(Thread& t) {
  int status = 0;
  const pid_t r = waitpid(t.tid, &status, __WALL | WNOHANG);
  if (r != t.tid) return has_ended_unreported(t);
  if (WIFSTOPPED(status)) {
    trace(PTRACE_CONT, t.tid, nullptr, nullptr);  // out of a group stop
    return false;
  }
  note_end(t, status);
  return true;
}

void World::await_child(int round) {
  if (round < kSpinRounds) return;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  const timespec most{0, 200000};  // it may end without a signal
  if (sigtimedwait(&set, nullptr, &most) == SIGCHLD) took_signal_ = true;
}

// Waits for the stop that PTRACE_INTERRUPT asked for; signals met on the way are delivered.
Trouble World::wait_stopped(Thread& t, uint64_t deadline_ns) {
  for (int round = 0;; round++) {
    int status = 0;
    const pid_t r = waitpid(t.tid, &status, __WALL | WNOHANG);
    if (r < 0 && errno != EINTR) {
      t.tid = 0;  // gone
      return {};
    }
    if (r == t.tid) {
      if (WIFEXITED(status) || WIFSIGNALED(status)) {
        note_end(t, status);
        return {};
      }
      if (WIFSTOPPED(status) && status >> 16 == kPtraceEventStop) {
        t.stopped = true;
        return {};
      }
      if (WIFSTOPPED(status)) {  // about to get a signal: let it have it, the stop comes after
        const int sig = status >> 16 == 0 ? WSTOPSIG(status) : 0;
        // The kernel forgets that a stop was asked for if this one comes just after that.
        trace(PTRACE_INTERRUPT, t.tid, nullptr, nullptr);
        trace(PTRACE_CONT, t.tid, nullptr, reinterpret_cast<void*>(static_cast<long>(sig)));
        continue;
      }
    }
    if (round % kLookWaits == kLookWaits - 1 && has_ended_unreported(t)) return {};
    if (rawsys::now_ns() > deadline_ns) {
      return trouble(Errc::kCannotStop, ETIMEDOUT,
                     thread_text(pid_, t.tid) +
                         " did not stop within 3 s (uninterruptible sleep, or waiting in vfork)");
    }
    await_child(round);
  }
}

// A thread inside the vDSO holds values of this boot's clock in registers, and one that has not yet
// left the restorer does not have its own registers at all: it is let go for a moment and stopped
// again, until it is met elsewhere. Not by single steps: if this process died between two of them,
// the kernel would leave the trap flag set, and SIGTRAP would end the program.
Trouble World::let_out(Thread& t, int round, bool* ret_again) {
  user_regs_struct& regs = t.regs;
  if (trace(PTRACE_GETREGS, t.tid, nullptr, &regs) != 0) {
    return trouble(Errc::kCannotStop, errno, thread_text(pid_, t.tid) + " has ended");
  }
  t.regs_known = true;
  if (regs.rip == 0 && regs.rsp == 0) {
    // No code of the program's: the kernel works off requests of an io_uring there, and goes on.
    io_workers_.push_back(t.tid);
    trace(PTRACE_DETACH, t.tid, nullptr, nullptr);
    t.tid = 0;
    return {};
  }
  const bool in_vdso = regs.rip >= vdso_start_ && regs.rip < vdso_end_;
  const bool in_restorer = regs.rip >= restorer_start_ && regs.rip < restorer_end_;
  if (!in_vdso && !in_restorer) return {};
  *ret_again = true;
  t.regs_known = false;
  if (trace(PTRACE_CONT, t.tid, nullptr, nullptr) != 0) {
    return trouble(Errc::kCannotStop, errno, thread_text(pid_, t.tid) + " has ended");
  }
  t.stopped = false;
  // It needs the processor to get out; different times, so that no rhythm of its own is matched.
  timespec ts{0, std::min(2000000, 1000 + round * 1700)};
  nanosleep(&ts, nullptr);
  t.before = look(t.tid);
  trace(PTRACE_INTERRUPT, t.tid, nullptr, nullptr);
  return {};
}

Trouble World::stop() {
  be_urgent(true);
  const uint64_t deadline = rawsys::now_ns() + kStopTimeoutNs;
  // A running thread may make new ones until all that were seen have stopped.
  int round = 0;
  for (bool again = true; again; round++) {
    Trouble bad = seize_new(&again);
    if (bad.bad()) return bad;
    for (Thread& t : threads_) {
      if (t.tid == 0 || (t.stopped && t.outside)) continue;
      if (!t.stopped) bad = wait_stopped(t, deadline);
      if (bad.bad()) return bad;
      if (dead_) return trouble(Errc::kCannotStop, ESRCH, "the program has ended");
      if (t.tid == 0) continue;
      bool inside = false;
      bad = let_out(t, round, &inside);
      if (bad.bad()) return bad;
      if (t.tid == 0) continue;
      t.outside = !inside;
      again = again || inside;
      if (inside && rawsys::now_ns() > deadline) {
        return trouble(Errc::kCannotStop, ETIMEDOUT,
                       thread_text(pid_, t.tid) +
                           " did not get out of the vDSO or the restorer within 3 s; is the "
                           "machine overloaded? Try again");
      }
    }
    std::erase_if(threads_, [](const Thread& t) { return t.tid == 0; });
  }
  if (threads_.empty()) return trouble(Errc::kCannotStop, ESRCH, "the program has ended");
  return {};
}

bool World::set_regs(const Thread& t, const user_regs_struct& regs) const {
  return trace(PTRACE_SETREGS, t.tid, nullptr, &regs) == 0;
}

// Makes a stopped thread itself say what nobody else can ask: alternate stack, tid address, ... It
// runs cr_report_entry on a stack of the library's, and is stopped again when it has reported. If
// this process died meanwhile, it would go on by itself from the frame written here.
Trouble World::begin_report(Thread& t, uint64_t slot) {
  channel_->reports[slot] = {};
  channel_->reports[slot].call_plugins = plugins_wanted_ ? 1 : 0;
  const uint64_t report = channel_->reports_addr + slot * sizeof(format::ThreadReport);
  return begin_function(t, slot, hello_.report_entry, report, 0);
}

Trouble World::begin_function(Thread& t, uint64_t slot, uint64_t entry, uint64_t arg,
                              uint64_t arg2) {
  const uint64_t stack_top = hello_.report_stack_top + slot * format::kReportStackBytes;
  const uint64_t frame_addr = (stack_top - format::kReportFrameRoom) & ~63ull;
  format::ThreadReport leave_altstack{};
  leave_altstack.altstack_flags = ~1u;  // invalid: rt_sigreturn then leaves it as it is
  auto frame = make_frame(t.saved, t.xstate, t.sigmask, leave_altstack);
  if (!frame || frame->size() > format::kReportFrameRoom) {
    return trouble(Errc::kUnsupported, 0,
                   thread_text(pid_, t.tid) + ": " +
                       (frame ? "its registers are too large" : frame.error().what) +
                       " cannot be saved");
  }
  const uint64_t xstate_addr = frame_addr + format::kFrameXstateOff;
  memcpy(frame->data() + format::kFrameFpstatePointerOff, &xstate_addr, sizeof(xstate_addr));
  user_regs_struct r = t.regs;
  r.rip = entry;
  r.rsp = frame_addr - 64;
  r.rdi = arg;
  r.rsi = frame_addr;
  r.rdx = arg2;
  r.orig_rax = ~0ull;
  r.eflags &= ~0x500ull;  // direction and trap flags
  const uint64_t all = ~0ull;
  // Registers before mask, and back the other way round below: a thread whose tracer dies between
  // the two must never run on in the program's code with every signal blocked.
  if (!write_memory(frame_addr, frame->data(), frame->size()) || !set_regs(t, r) ||
      trace(PTRACE_SETSIGMASK, t.tid, 8, &all) != 0 ||
      trace(PTRACE_CONT, t.tid, nullptr, nullptr) != 0) {
    return trouble(Errc::kCannotStop, errno, thread_text(pid_, t.tid) + " could not be questioned");
  }
  t.stopped = false;
  return {};
}

Trouble World::await_report(Thread& t, uint64_t slot, uint64_t deadline_ns) {
  const format::ThreadReport& report = channel_->reports[slot];
  for (int round = 0; __atomic_load_n(&report.done, __ATOMIC_ACQUIRE) == 0; round++) {
    if (round % kLookRounds == kLookRounds - 1 && has_ended(t)) {
      return trouble(Errc::kCannotStop, ESRCH, "the program has ended");
    }
    if (rawsys::now_ns() > deadline_ns) {
      return trouble(Errc::kCannotStop, ETIMEDOUT, thread_text(pid_, t.tid) + " does not report");
    }
    let_run(round);
  }
  trace(PTRACE_INTERRUPT, t.tid, nullptr, nullptr);
  return {};
}

// Registers and mask as they were. report: what the function tells, if it is that.
Trouble World::end_function(Thread& t, uint64_t deadline_ns, const format::ThreadReport* report) {
  Trouble bad = wait_stopped(t, deadline_ns);
  if (bad.bad()) return bad;
  if (t.tid == 0) return trouble(Errc::kCannotStop, ESRCH, "the program has ended");
  if (report != nullptr) t.report = *report;
  if (report != nullptr && t.report.done == format::kReportLeft) {  // it has them already
    return trouble(Errc::kCannotStop, EAGAIN,
                   thread_text(pid_, t.tid) +
                       " waited so long in the stop that it went on; is the machine overloaded? "
                       "Try again");
  }
  trace(PTRACE_SETSIGMASK, t.tid, 8, &t.sigmask);
  set_regs(t, t.regs);
  return {};
}

Trouble World::end_report(Thread& t, uint64_t slot, uint64_t deadline_ns) {
  return end_function(t, deadline_ns, &channel_->reports[slot]);
}

Trouble World::join() {
  Thread& t = threads_[0];
  shared_pending_ = peek_signals(t.tid, true);
  Trouble bad = describe_thread(t, nullptr);
  const uint64_t word = hello_.state + offsetof(format::ControlHead, joining);
  uint32_t joining = 1;
  if (!bad.bad() && !write_memory(word, &joining, sizeof(joining))) {
    bad = trouble(Errc::kUnsupported, EFAULT, "the library's memory cannot be written");
  }
  if (!bad.bad()) {
    bad = begin_function(t, 0, hello_.join_entry, hello_.state, hello_.control_stack_top);
  }
  if (bad.bad()) return bad;
  const uint64_t deadline = rawsys::now_ns() + kStopTimeoutNs;
  for (int round = 0; joining == 1; round++) {
    if (!read_memory(word, &joining, sizeof(joining))) break;
    if (round % kLookRounds == kLookRounds - 1 && has_ended(t)) {
      return trouble(Errc::kCannotStop, ESRCH, "the process has ended");
    }
    if (rawsys::now_ns() > deadline) break;
    let_run(round);
  }
  trace(PTRACE_INTERRUPT, t.tid, nullptr, nullptr);
  bad = end_function(t, deadline, nullptr);
  if (!bad.bad() && joining == 1) {
    bad = trouble(Errc::kCannotStop, ETIMEDOUT, thread_text(pid_, t.tid) + " does not answer");
  }
  return bad;
}

// Each step for all threads of the batch before the next: they run at the same time. Those that
// were begun are ended, whatever became of the others.
Trouble World::describe_batch(size_t first, size_t count, const format::SigactionRecord* actions) {
  for (size_t i = first; i < first + count; i++) {
    Trouble bad = describe_thread(threads_[i], actions);
    if (bad.bad()) return bad;
  }
  report_first_ = first;
  Trouble bad;
  while (reports_begun_ < count && !bad.bad()) {
    bad = begin_report(threads_[first + reports_begun_], reports_begun_);
    if (reports_begun_ == 0) os::fault_point(os::FaultPoint::kThreadsAsked);
    reports_begun_++;
  }
  return bad;
}

Trouble World::end_describe() {
  Trouble bad;
  const size_t begun = std::exchange(reports_begun_, 0);
  const uint64_t deadline = rawsys::now_ns() + kStopTimeoutNs;
  const auto for_all = [&](Trouble (World::*step)(Thread&, uint64_t, uint64_t)) {
    for (size_t i = 0; i < begun; i++) {
      Thread& t = threads_[report_first_ + i];
      if (t.tid == 0 || t.stopped) continue;
      Trouble b = (this->*step)(t, i, deadline);
      if (b.bad() && !bad.bad()) bad = b;
    }
  };
  for_all(&World::await_report);
  for_all(&World::end_report);
  return bad;
}

Trouble World::call_plugins() {
  Thread& t = threads_[0];
  const format::ThreadReport said = t.report;
  const uint64_t deadline = rawsys::now_ns() + kStopTimeoutNs;
  plugins_wanted_ = true;
  Trouble bad = begin_report(t, 0);
  plugins_wanted_ = false;
  if (!bad.bad()) bad = await_report(t, 0, deadline);
  if (!bad.bad()) bad = end_report(t, 0, deadline);
  t.report = said;
  iovec iov{t.xstate.data(), t.xstate.size()};
  if (!bad.bad() && trace(PTRACE_SETREGSET, t.tid, reinterpret_cast<void*>(kNtX86Xstate), &iov)) {
    return trouble(Errc::kCannotStop, errno, thread_text(pid_, t.tid) + ": its registers");
  }
  return bad;
}

Deliverable World::deliverable(const Thread& t, const format::SigactionRecord* actions) const {
  Deliverable worst = Deliverable::kNone;
  auto look = [&](const std::vector<siginfo_t>& list) {
    for (const siginfo_t& s : list) {
      if (s.si_signo < 1 || s.si_signo > 64) continue;
      if ((t.sigmask >> (s.si_signo - 1) & 1) != 0) continue;
      if (actions == nullptr) worst = Deliverable::kInterrupting;
      if (actions == nullptr) continue;
      const format::SigactionRecord& a = actions[s.si_signo - 1];
      if (a.handler <= 1) continue;  // SIG_DFL, SIG_IGN
      const Deliverable d =
          (a.flags & SA_RESTART) != 0 ? Deliverable::kRestarting : Deliverable::kInterrupting;
      if (d > worst) worst = d;
    }
  };
  look(t.pending);
  look(shared_pending_);
  return worst;
}

std::vector<siginfo_t> peek_signals(pid_t tid, bool shared) {
  std::vector<siginfo_t> all;
  for (;;) {
    siginfo_t batch[16];
    struct __ptrace_peeksiginfo_args a {};
    a.off = all.size();
    a.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0;
    a.nr = 16;
    const long n = trace(PTRACE_PEEKSIGINFO, tid, &a, batch);
    if (n <= 0) break;
    all.insert(all.end(), batch, batch + n);
  }
  std::erase_if(all, [](const siginfo_t& s) { return s.si_signo == SIGSTOP; });
  return all;
}

Trouble World::describe_thread(Thread& t, const format::SigactionRecord* actions) {
  if (!t.regs_known && trace(PTRACE_GETREGS, t.tid, nullptr, &t.regs) != 0) {
    return trouble(Errc::kCannotStop, errno, thread_text(pid_, t.tid) + " has ended");
  }
  t.inner_tid = nested_ ? os::inner_tid(pid_, t.tid) : t.tid;
  t.syscall_nr = static_cast<long>(t.regs.orig_rax) >= 0 ? static_cast<long>(t.regs.orig_rax) : -1;
  uint8_t area[16384];
  iovec iov{area, sizeof(area)};
  if (trace(PTRACE_GETREGSET, t.tid, reinterpret_cast<void*>(kNtX86Xstate), &iov) != 0) {
    return trouble(Errc::kUnsupported, errno, thread_text(pid_, t.tid) + ": floating-point state");
  }
  t.xstate.assign(area, area + iov.iov_len);
  trace(PTRACE_GETSIGMASK, t.tid, reinterpret_cast<void*>(8), &t.sigmask);
  struct ptrace_rseq_configuration rseq {};
  if (trace(PTRACE_GET_RSEQ_CONFIGURATION, t.tid, reinterpret_cast<void*>(sizeof(rseq)), &rseq) >
      0) {
    t.rseq_addr = rseq.rseq_abi_pointer;
    t.rseq_bytes = rseq.rseq_abi_size;
    t.rseq_signature = rseq.signature;
  }
  return settle_call(t, actions);
}

// How the call goes on that the stop interrupted. Without `actions` any deliverable signal counts
// as one that ends it.
Trouble World::settle_call(Thread& t, const format::SigactionRecord* actions) {
  t.settled = true;
  t.pending = peek_signals(t.tid, false);
  look_again(pid_, t.switches, t.before);
  CallContext x;
  x.before = t.before;
  x.signal = deliverable(t, actions);
  x.resume_entry = hello_.resume_entry;
  x.pidfd = pidfd_;
  x.read = [](void* self, uint64_t addr, void* to, size_t n) {
    return static_cast<World*>(self)->read_memory(addr, to, n);
  };
  x.read_context = this;
  Continuation c = continue_call(t.regs, x);
  t.saved = c.saved;
  // They lie below the thread's stack, or shorten the frame it works off: the running program has
  // them too, because it goes on from `saved` if this process dies.
  for (const Poke& p : c.pokes) {
    if (write_memory(p.addr, p.bytes.data(), p.bytes.size())) continue;
    return trouble(Errc::kUnsupported, EFAULT,
                   thread_text(pid_, t.tid) + " waits in a timed call and has no stack left");
  }
  t.saved_pokes = std::move(c.pokes);
  if (c.live_changed && set_regs(t, c.live)) t.regs = c.live;
  return {};
}

// Threads that nobody described: a stop for another purpose, or a checkpoint that failed before.
void World::settle_calls() {
  bool known = false;
  for (Thread& t : threads_) {
    if (t.tid == 0 || !t.stopped || !t.outside || t.settled) continue;
    if (!known) shared_pending_ = peek_signals(t.tid, true);
    known = true;
    if (trace(PTRACE_GETREGS, t.tid, nullptr, &t.regs) != 0) continue;
    if (static_cast<long>(t.regs.orig_rax) < 0) continue;
    trace(PTRACE_GETSIGMASK, t.tid, reinterpret_cast<void*>(8), &t.sigmask);
    (void)settle_call(t, nullptr);
  }
}

// Leaves the last batch at work.
Trouble World::begin_describe(const format::SigactionRecord* actions) {
  shared_pending_ = peek_signals(threads_[0].tid, true);
  for (size_t first = 0; first < threads_.size(); first += format::kReportSlots) {
    Trouble bad = end_describe();
    const size_t count = std::min<size_t>(format::kReportSlots, threads_.size() - first);
    if (!bad.bad()) bad = describe_batch(first, count, actions);
    if (bad.bad()) return bad;
  }
  return {};
}

// A thread that was killed in its stop stays a zombie, and the process with it, until its tracer
// has waited for it.
void World::bury(Thread& t) {
  const uint64_t deadline = rawsys::now_ns() + kStopTimeoutNs;
  std::vector<pid_t> one = {t.tid};
  for (int round = 0; !one.empty() && rawsys::now_ns() < deadline; round++) {
    if (finish_threads(one, pid_, &dead_status_)) dead_ = true;
    if (!one.empty()) await_child(round);
  }
  unfinished_.insert(unfinished_.end(), one.begin(), one.end());
}

bool World::all_dead() const {
  auto tasks = os::list_tasks(pid_);
  for (const pid_t tid : tasks ? *tasks : std::vector<pid_t>()) {
    auto stat = os::read_stat(pid_, tid);
    if (stat && stat->state != 'Z' && stat->state != 'X') return false;
  }
  return true;
}

void World::keep_control_running() {
  if (!control_held_) {
    auto stat = os::read_stat(pid_, control_tid_);
    if (!stat || stat->state != 'T') return;
    if (trace(PTRACE_SEIZE, control_tid_, nullptr, nullptr) != 0) return;
    control_held_ = true;
    trace(PTRACE_INTERRUPT, control_tid_, nullptr, nullptr);
  }
  int status = 0;
  if (waitpid(control_tid_, &status, __WALL | WNOHANG) == control_tid_ && WIFSTOPPED(status)) {
    trace(PTRACE_CONT, control_tid_, nullptr, nullptr);
  }
}

void World::release_control() {
  if (!control_held_) return;
  control_held_ = false;
  trace(PTRACE_INTERRUPT, control_tid_, nullptr, nullptr);
  Thread t;
  t.tid = control_tid_;
  bury(t);
}

void World::resume() {
  settle_calls();
  release_control();
  // The leader's end is only reported when all other threads are buried.
  std::stable_sort(threads_.begin(), threads_.end(),
                   [](const Thread& a, const Thread& b) { return a.leader < b.leader; });
  for (Thread& t : threads_) {
    if (t.tid == 0) continue;
    if (!t.stopped) {
      // Seized but it never stopped: it cannot be detached before it does.
      if (wait_stopped(t, rawsys::now_ns() + 200000000).bad()) {
        unfinished_.push_back(t.tid);
        continue;
      }
    }
    if (t.stopped && trace(PTRACE_DETACH, t.tid, nullptr, nullptr) != 0) bury(t);
  }
  let_go_ = std::move(threads_);
  threads_.clear();
  be_urgent(false);
  // Its end may have been noticed only just now. While other threads live it is not reported.
  if (leader_unburied_) {
    Thread leader;
    leader.tid = pid_;
    if (all_dead()) {
      bury(leader);
    } else {
      unfinished_.push_back(pid_);
    }
  }
  leader_unburied_ = false;
  if (std::exchange(took_signal_, false)) kill(getpid(), SIGCHLD);  // for the main loop
}

bool finish_threads(std::vector<pid_t>& unfinished, pid_t pid, int* ret_status) {
  bool ended = false;
  std::erase_if(unfinished, [&](pid_t tid) {
    int status = 0;
    const pid_t r = waitpid(tid, &status, __WALL | WNOHANG);
    if (r < 0) return errno != EINTR;  // no longer ours
    if (r == 0) return false;
    if (WIFSTOPPED(status)) {
      const long sig = status >> 16 == 0 ? WSTOPSIG(status) : 0;
      return trace(PTRACE_DETACH, tid, nullptr, reinterpret_cast<void*>(sig)) == 0;
    }
    if (!WIFEXITED(status) && !WIFSIGNALED(status)) return false;
    if (tid == pid) {
      ended = true;
      *ret_status = status;
    }
    return true;
  });
  return ended;
}

}  // namespace cr::agent
