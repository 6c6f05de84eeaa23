// SPDX-License-Identifier: MIT
// rollback_threads.cc - see rollback.h: threads, signals, timers and what else the kernel knows of
// the process.
// Invariant: as there. Context: N (agent).
#include "agent/rollback.h"

#include <errno.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>

#include "agent/frame.h"
#include "agent/traits.h"
#include "os/proc.h"
#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint64_t kTimeoutNs = 10ull * 1000000000;
constexpr int kNtX86Xstate = 0x202;
constexpr uint32_t kMay = format::kCallMayFail;

template <typename D>
long trace(long request, pid_t tid, uint64_t addr, D data) {
  return rawsys::sys(__NR_ptrace, request, tid, addr, data);
}

std::string who(pid_t tid) { return "thread " + std::to_string(tid); }

constexpr int kLookRounds = 64;  // of waiting, before another look whether the thread lives

// Not undone: what somebody else has sent since the checkpoint.
bool came_from_outside(const format::SiginfoRecord& r, pid_t self) {
  siginfo_t s;
  memcpy(&s, r.info, sizeof(s));
  switch (s.si_code) {
    case SI_USER:
    case SI_QUEUE:
    case SI_TKILL:
      return s.si_pid != self;
    case SI_KERNEL:  // of a terminal
      return s.si_signo == SIGINT || s.si_signo == SIGQUIT || s.si_signo == SIGHUP ||
             s.si_signo == SIGTSTP || s.si_signo == SIGWINCH;
    default:
      return false;
  }
}

using Infos = std::vector<format::SiginfoRecord>;

bool same_info(const format::SiginfoRecord& a, const format::SiginfoRecord& b) {
  return memcmp(a.info, b.info, sizeof(a.info)) == 0;
}

Infos as_records(const std::vector<siginfo_t>& list) {
  Infos out;
  for (const siginfo_t& s : list) {
    format::SiginfoRecord r{};
    memcpy(r.info, &s, sizeof(r.info));
    out.push_back(r);
  }
  return out;
}

uint64_t signal_bit(const format::SiginfoRecord& r) {
  int sig;
  memcpy(&sig, r.info, sizeof(sig));
  return sig >= 1 && sig <= 64 ? uint64_t{1} << (sig - 1) : 0;
}

// What shall be pending: what was, and what has come from outside since.
Infos wanted_pending(const Infos& then, const Infos& now, pid_t self) {
  Infos want = then;
  for (const format::SiginfoRecord& n : now) {
    const bool known = std::ranges::any_of(then, [&](const auto& t) { return same_info(t, n); });
    if (!known && came_from_outside(n, self)) want.push_back(n);
  }
  return want;
}

bool same_infos(const Infos& a, const Infos& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), same_info);
}

}  // namespace

Thread* Rollback::thread(pid_t tid) {
  for (Thread& t : world_->threads()) {
    if (t.tid == tid) return &t;
  }
  return nullptr;
}

bool Rollback::set_thread(const Thread& t, user_regs_struct regs, uint64_t sigmask) {
  return trace(PTRACE_SETREGS, t.tid, 0, &regs) == 0 &&
         trace(PTRACE_SETSIGMASK, t.tid, 8, &sigmask) == 0;
}

// Makes a held thread make the calls of a list, on the stack of reports, one at a time.
std::string Rollback::thread_calls(Thread& t, uint64_t list) {
  format::CallList* l = list_at(list);
  user_regs_struct r = t.regs;
  r.rip = s_.hello_.calls_entry;
  r.rsp = s_.hello_.report_stack_top - 64;
  r.rdi = address(list);
  r.orig_rax = ~0ull;
  r.eflags &= ~0x500ull;  // direction and trap flags
  if (!set_thread(t, r, ~0ull) || trace(PTRACE_CONT, t.tid, 0, 0) != 0) {
    return who(t.tid) + " has ended";
  }
  t.stopped = false;
  const uint64_t deadline = rawsys::now_ns() + kTimeoutNs;
  for (int round = 0; __atomic_load_n(&l->done, __ATOMIC_ACQUIRE) == 0; round++) {
    if (round % kLookRounds == kLookRounds - 1 && world_->has_ended(t)) {
      return "the program has ended";
    }
    if (rawsys::now_ns() > deadline) return who(t.tid) + " does not answer";
    let_run(round);
  }
  trace(PTRACE_INTERRUPT, t.tid, 0, 0);
  const Trouble bad = world_->wait_for(t, deadline);
  if (bad.bad()) return bad.text;
  if (t.tid == 0) return "the program has ended";
  if (l->failed == 0) return "";
  const format::Call& c = calls_at(list)[l->failed - 1];
  return "system call " + std::to_string(c.nr) + ": " + strerror(static_cast<int>(-c.result));
}

// ---- finding out ------------------------------------------------------------------------------

std::string Rollback::match_threads() {
  const format::ImageView& v = image_->view;
  const bool leader_gone = (v.process->flags & format::kProcessLeaderGone) != 0;
  if (leader_gone != world_->leader_gone()) return "the main thread has ended or was there";
  const bool own_ids =
      os::in_pid_namespace(os::read_or_empty(os::task_path(s_.pid_, s_.control_tid_, "status")));
  std::vector<bool> known(world_->threads().size(), false);
  for (const format::ThreadRecord& r : v.threads) {
    Pair p;
    p.record = &r;
    const bool leader = (r.flags & format::kThreadLeader) != 0;
    for (size_t i = 0; i < world_->threads().size(); i++) {
      Thread& t = world_->threads()[i];
      t.inner_tid =
          own_ids ? (t.inner_tid != 0 ? t.inner_tid : os::inner_tid(s_.pid_, t.tid)) : t.tid;
      if (known[i] || (leader ? !t.leader : t.leader || t.inner_tid != r.tid)) continue;
      known[i] = true;
      p.tid = t.tid;
      break;
    }
    if (p.tid == 0 && leader) return "the main thread is not there";
    threads_.push_back(std::move(p));
  }
  for (size_t i = 0; i < known.size(); i++) {
    Thread& t = world_->threads()[i];
    if (!known[i] && t.leader) return "the main thread is there";
    if (!known[i]) extra_.push_back(t.tid);
    if (trace(PTRACE_GETREGS, t.tid, 0, &t.regs) != 0) return who(t.tid) + " has ended";
    trace(PTRACE_GETSIGMASK, t.tid, 8, &t.sigmask);
    struct ptrace_rseq_configuration rseq {};
    if (trace(PTRACE_GET_RSEQ_CONFIGURATION, t.tid, sizeof(rseq), &rseq) > 0) {
      t.rseq_addr = rseq.rseq_abi_pointer;
      t.rseq_bytes = rseq.rseq_abi_size;
      t.rseq_signature = rseq.signature;
    }
  }
  for (Pair& p : threads_) {
    const Thread* t = p.tid != 0 ? thread(p.tid) : nullptr;
    if (t == nullptr) continue;
    if (carrier_ == 0) carrier_ = p.tid;
    if (t->rseq_addr != p.record->rseq_addr) return "a thread's rseq area was moved";
    if (t->rseq_addr == 0) continue;
    p.rseq.resize(t->rseq_bytes);
    if (!world_->read_memory(t->rseq_addr, p.rseq.data(), p.rseq.size())) p.rseq.clear();
  }
  return carrier_ != 0 ? "" : "none of its threads is left";
}

std::string Rollback::plan_signals() {
  const format::ImageView& v = image_->view;
  const pid_t inner_pid = s_.hello_.pid;
  auto saved = [&](int32_t tid) {
    Infos out;
    for (const format::SiginfoRecord& i : v.siginfos) {
      if (i.tid == tid) out.push_back(i);
    }
    return out;
  };
  const Infos shared = as_records(peek_signals(world_->threads()[0].tid, true));
  shared_pending_ = wanted_pending(saved(0), shared, inner_pid);
  bool changed = flush_ != 0 || !same_infos(shared_pending_, shared);
  for (const format::SiginfoRecord& i : shared) flush_ |= signal_bit(i);
  for (Pair& p : threads_) {
    const Infos now = p.tid != 0 ? as_records(peek_signals(p.tid, false)) : Infos();
    p.pending = wanted_pending(saved(p.record->tid), now, inner_pid);
    changed = changed || !same_infos(p.pending, now);
    for (const format::SiginfoRecord& i : now) flush_ |= signal_bit(i);
  }
  // Its timers go on until the control thread turns them off.
  constexpr int kTimerSignals[3] = {SIGALRM, SIGVTALRM, SIGPROF};
  for (int i = 0; i < 3; i++) {
    if (s_.channel()->process.itimers[i].value_us == 0) continue;
    flush_ |= uint64_t{1} << (kTimerSignals[i] - 1);
    changed = true;
  }
  if (!changed) {
    flush_ = 0;
    shared_pending_.clear();
    for (Pair& p : threads_) p.pending.clear();
  }
  // Process-wide signals can only be sent with the kernel's own codes by the main thread.
  if (!shared_pending_.empty() && !thread(carrier_)->leader) {
    return "signals are pending, and the main thread has ended";
  }
  return "";
}

// Off now, for nothing may be sent meanwhile; on when all is done.
void Rollback::plan_timers(Calls& first) {
  const format::ProcessRecord& p = *image_->view.process;
  for (uint64_t which = 0; which < 3; which++) {
    const format::TimerRecord& now = s_.channel()->process.itimers[which];
    format::TimerRecord then = p.itimers[which];
    if (which == ITIMER_REAL && then.value_us == 0) then.value_us = then.interval_us;
    const int64_t off[4] = {};
    if (now.value_us != 0 || now.interval_us != 0) {
      first.push_back({__NR_setitimer, {which, address(put(off, sizeof(off)))}, 0, 0, 0});
    }
    if (then.value_us == 0) continue;
    const int64_t it[4] = {then.interval_us / 1000000, then.interval_us % 1000000,
                           then.value_us / 1000000, then.value_us % 1000000};
    last_.push_back({__NR_setitimer, {which, address(put(it, sizeof(it)))}, 0, 0, 0});
  }
  for (const int32_t id : timers_) {
    first.push_back({__NR_timer_delete, {static_cast<uint64_t>(id)}, 0, kMay, 0});
  }
}

void Rollback::resolve_tracking(MemoryChange& change) {
  for (const size_t i : change.track) {
    format::Call& c = change.calls[i];
    const rawsys::UffdioRegister what{c.args[0], c.args[1], rawsys::kUffdRegisterWp, 0};
    c.args[0] = static_cast<uint64_t>(s_.channel()->tracker_fd);
    c.args[1] = rawsys::kUffdioRegister;
    c.args[2] = address(put(&what, sizeof(what)));
  }
}

void Rollback::plan_process() {
  const format::ImageView& v = image_->view;
  const format::Process& now = s_.channel()->process;
  const format::ProcessRecord& then = *v.process;
  plan_timers(first_);
  for (uint64_t sig = 1; sig <= v.sigactions.size() && sig <= 64; sig++) {
    if (sig == SIGKILL || sig == SIGSTOP) continue;
    const format::SigactionRecord& a = v.sigactions[sig - 1];
    const bool flush = (flush_ >> (sig - 1) & 1) != 0;
    if (!flush && memcmp(&a, &now.sigactions[sig - 1], sizeof(a)) == 0) continue;
    const uint64_t raw[4] = {a.handler, a.flags, a.restorer, a.mask};
    const uint64_t ignore[4] = {1 /* SIG_IGN */, 0, 0, 0};
    if (flush) {  // takes the pending ones away, from all threads
      const uint64_t at = address(put(ignore, sizeof(ignore)));
      first_.push_back({__NR_rt_sigaction, {sig, at, 0, 8}, 0, 0, 0});
    }
    first_.push_back({__NR_rt_sigaction, {sig, address(put(raw, sizeof(raw))), 0, 8}, 0, 0, 0});
  }
  first_.push_back({__NR_umask, {then.umask}, 0, 0, 0});
  rlimit probe{};
  const bool from_outside = prlimit(s_.pid_, RLIMIT_CORE, nullptr, &probe) == 0;
  for (uint64_t i = 0; !from_outside && i < 16; i++) {  // of another user by now: put_limits_back()
    if (memcmp(&then.rlimits[i], &now.rlimits[i], sizeof(then.rlimits[i])) == 0) continue;
    const uint64_t at = address(put(&then.rlimits[i], sizeof(then.rlimits[i])));
    first_.push_back({__NR_prlimit64, {0, i, at, 0}, 0, kMay, 0});
  }
  auto prctl = [&](int option, uint64_t value) {
    first_.push_back({__NR_prctl, {static_cast<uint64_t>(option), value, 0, 0, 0}, 0, kMay, 0});
  };
  if (then.dumpable != now.dumpable && then.dumpable <= 1) prctl(PR_SET_DUMPABLE, then.dumpable);
  const bool no_thp = (then.flags & format::kProcessThpDisabled) != 0;
  if (no_thp != (now.thp_disabled != 0)) prctl(PR_SET_THP_DISABLE, no_thp ? 1 : 0);
  const bool reaper = (then.flags & format::kProcessChildSubreaper) != 0;
  if (reaper != (now.child_subreaper != 0)) prctl(PR_SET_CHILD_SUBREAPER, reaper ? 1 : 0);
  resolve_tracking(memory_);
  first_.insert(first_.end(), memory_.calls.begin(), memory_.calls.end());
  list_first_ = put_calls(first_);
  for (Pair& p : threads_) plan_thread(p);
}

// What a thread can only do itself; as become() of the restorer.
void Rollback::plan_thread(Pair& p) {
  const format::ThreadRecord& r = *p.record;
  const format::ImageView& v = image_->view;
  const FrameRest rest = frame_rest(v.blob(r.frame));
  Calls calls;
  auto call = [&](long nr, std::initializer_list<uint64_t> args, uint32_t flags = 0) {
    format::Call c{};
    c.nr = static_cast<uint64_t>(nr);
    std::copy(args.begin(), args.end(), c.args);
    c.flags = flags;
    calls.push_back(c);
  };
  const struct {
    uint64_t sp;
    uint32_t flags, pad;
    uint64_t bytes;
  } altstack{rest.altstack_sp, rest.altstack_flags, 0, rest.altstack_bytes};
  call(__NR_sigaltstack, {address(put(&altstack, sizeof(altstack))), 0});
  call(__NR_set_robust_list, {r.robust_list, r.robust_list != 0 ? r.robust_list_bytes : 24});
  call(__NR_set_tid_address, {r.clear_child_tid});
  if (p.tid == 0 && r.rseq_addr != 0) {
    call(__NR_rseq, {r.rseq_addr, r.rseq_bytes, 0, r.rseq_signature});
  }
  auto prctl = [&](int option, uint64_t value) {
    call(__NR_prctl, {static_cast<uint64_t>(option), value, 0, 0, 0}, kMay);
  };
  prctl(PR_SET_NAME, address(put(r.name, sizeof(r.name))));
  if (r.timer_slack_ns != 0) prctl(PR_SET_TIMERSLACK, r.timer_slack_ns);
  prctl(PR_SET_PDEATHSIG, static_cast<uint64_t>(r.pdeathsig));
  prctl(PR_SET_KEEPCAPS, (r.flags & format::kThreadKeepCaps) != 0 ? 1 : 0);
  if ((r.flags & format::kThreadNoNewPrivs) != 0) prctl(PR_SET_NO_NEW_PRIVS, 1);
  const Calls traits = settle_traits(v, r.tid);
  calls.insert(calls.end(), traits.begin(), traits.end());
  const auto inner_pid = static_cast<uint64_t>(s_.hello_.pid);
  auto queue = [&](const format::SiginfoRecord& i, bool to_process) {
    int sig;
    memcpy(&sig, i.info, sizeof(sig));
    const uint64_t info = address(put(i.info, sizeof(i.info)));
    const auto number = static_cast<uint64_t>(sig);
    if (to_process) {
      call(__NR_rt_sigqueueinfo, {inner_pid, number, info});
    } else {
      call(__NR_rt_tgsigqueueinfo, {inner_pid, 0 /* its own id, when it has one */, number, info});
    }
  };
  for (const format::SiginfoRecord& i : p.pending) queue(i, false);
  if ((r.flags & format::kThreadLeader) != 0) {
    for (const format::SiginfoRecord& i : shared_pending_) queue(i, true);
  }
  p.list = put_calls(calls);
}

// ---- carrying out -----------------------------------------------------------------------------

// Threads made since: gone before memory changes, and without a trace in it.
std::string Rollback::end_threads() {
  for (const pid_t tid : extra_) {
    Thread& t = *thread(tid);
    constexpr uint64_t kRseqUnregister = 1;
    Calls calls = {{__NR_set_robust_list, {0, 24}, 0, kMay, 0},
                   {__NR_set_tid_address, {0}, 0, kMay, 0}};
    if (t.rseq_addr != 0) {
      calls.push_back(
          {__NR_rseq, {t.rseq_addr, t.rseq_bytes, kRseqUnregister, t.rseq_signature}, 0, kMay, 0});
    }
    calls.push_back({__NR_exit, {0}, 0, 0, 0});
    user_regs_struct r = t.regs;
    const uint64_t list = put_calls(calls);
    if (full_) return "the shared tables are full";
    r.rip = s_.hello_.calls_entry;
    r.rsp = s_.hello_.report_stack_top - 64;
    r.rdi = address(list);
    r.orig_rax = ~0ull;
    r.eflags &= ~0x500ull;
    if (!set_thread(t, r, ~0ull) || trace(PTRACE_CONT, t.tid, 0, 0) != 0) {
      return who(t.tid) + " has ended";
    }
    t.stopped = false;
    const uint64_t deadline = rawsys::now_ns() + kTimeoutNs;
    for (int round = 0;; round++) {
      int status = 0;
      const pid_t w = waitpid(t.tid, &status, __WALL | WNOHANG);
      if (w == t.tid && WIFSTOPPED(status)) trace(PTRACE_CONT, t.tid, 0, 0);
      if ((w == t.tid && !WIFSTOPPED(status)) || (w < 0 && errno == ECHILD)) break;
      if (rawsys::now_ns() > deadline) return who(t.tid) + " does not end";
      let_run(round);
    }
    std::erase_if(world_->threads(), [&](const Thread& x) { return x.tid == tid; });
  }
  return "";
}

// A thread that ended since is made again by one of those that are left, with its old id where that
// is allowed, as crrestore --ids=auto and --ids=new do.
std::string Rollback::make_thread(Pair& p) {
  const format::ThreadRecord& r = *p.record;
  clone_args ca{};
  ca.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
             CLONE_SETTLS;
  ca.tls = r.fs_base;
  if (r.clear_child_tid != 0) {
    ca.flags |= CLONE_CHILD_CLEARTID;
    ca.child_tid = r.clear_child_tid;
  }
  const uint64_t plain = put(&ca, sizeof(ca));
  ca.set_tid = address(put(&r.tid, sizeof(r.tid)));
  ca.set_tid_size = 1;
  const uint64_t with_id = put(&ca, sizeof(ca));
  long made = -EPERM;
  for (const uint64_t args : {with_id, plain}) {
    if (made >= 0) break;
    const uint64_t list = put_calls({{__NR_clone3, {address(args), sizeof(ca)}, 0, kMay, 0}});
    if (full_) return "the shared tables are full";
    std::string why = thread_calls(*thread(carrier_), list);
    if (!why.empty()) return why;
    made = calls_at(list)->result;
  }
  if (made < 0) return std::string("making a thread: ") + strerror(static_cast<int>(-made));
  // All others are known; it waits, every signal blocked, for this.
  auto tasks = os::list_tasks(s_.pid_);
  for (const pid_t tid : tasks ? *tasks : std::vector<pid_t>()) {
    if (tid == s_.control_tid_ || thread(tid) != nullptr) continue;
    if (tid == s_.pid_ && world_->leader_gone()) continue;
    Thread t;
    t.tid = tid;
    t.inner_tid = static_cast<pid_t>(made);
    if (trace(PTRACE_SEIZE, tid, 0, PTRACE_O_EXITKILL) != 0) continue;
    trace(PTRACE_INTERRUPT, tid, 0, 0);
    const Trouble bad = world_->wait_for(t, rawsys::now_ns() + kTimeoutNs);
    if (bad.bad()) return bad.text;
    if (trace(PTRACE_GETREGS, tid, 0, &t.regs) != 0) return who(tid) + " has ended";
    p.tid = tid;
    world_->threads().push_back(std::move(t));
    return "";
  }
  return "a new thread is not there";
}

void Rollback::put_schedule_back(const Pair& p) {
  const format::ThreadRecord& r = *p.record;
  sched_param now{};
  sched_getparam(p.tid, &now);
  if ((sched_getscheduler(p.tid) & 0xff) != r.sched_policy ||
      now.sched_priority != r.sched_priority) {
    const sched_param want{r.sched_priority};
    sched_setscheduler(p.tid, r.sched_policy, &want);
  }
  const auto id = static_cast<id_t>(p.tid);
  if (getpriority(PRIO_PROCESS, id) != r.nice) setpriority(PRIO_PROCESS, id, r.nice);
  const auto affinity = image_->view.blob(r.affinity);
  cpu_set_t want, have;
  if (affinity.size() != sizeof(want)) return;
  memcpy(&want, affinity.data(), sizeof(want));
  if (sched_getaffinity(p.tid, sizeof(have), &have) == 0 && CPU_EQUAL(&want, &have) == 0) {
    sched_setaffinity(p.tid, sizeof(want), &want);
  }
}

// All registers, as rt_sigreturn on its frame would.
std::string Rollback::give_registers(const Pair& p) {
  const Thread& t = *thread(p.tid);
  const auto frame = image_->view.blob(p.record->frame);
  const FrameRegisters f = frame_registers(frame.data());
  const FrameRest rest = frame_rest(frame);
  std::vector<uint8_t> area(16384);
  iovec iov{area.data(), area.size()};
  if (rest.xstate.empty() || trace(PTRACE_GETREGSET, t.tid, kNtX86Xstate, &iov) != 0 ||
      iov.iov_len < rest.xstate.size()) {
    return who(t.tid) + ": floating-point state";
  }
  constexpr size_t kSoftwareOff = 464, kSoftwareEnd = 512;  // not the processor's
  memcpy(area.data(), rest.xstate.data(), kSoftwareOff);
  memcpy(area.data() + kSoftwareEnd, rest.xstate.data() + kSoftwareEnd,
         rest.xstate.size() - kSoftwareEnd);
  if (trace(PTRACE_SETREGSET, t.tid, kNtX86Xstate, &iov) != 0) {
    return who(t.tid) + ": setting floating-point state";
  }
  user_regs_struct r = t.regs;
  r.r8 = f.r8, r.r9 = f.r9, r.r10 = f.r10, r.r11 = f.r11;
  r.r12 = f.r12, r.r13 = f.r13, r.r14 = f.r14, r.r15 = f.r15;
  r.rdi = f.rdi, r.rsi = f.rsi, r.rbp = f.rbp, r.rbx = f.rbx;
  r.rdx = f.rdx, r.rax = f.rax, r.rcx = f.rcx, r.rsp = f.rsp;
  r.rip = f.rip, r.eflags = f.eflags;
  r.cs = rest.cs, r.ss = rest.ss;
  r.orig_rax = ~0ull;  // no system call to be restarted by the kernel
  r.fs_base = p.record->fs_base;
  r.gs_base = p.record->gs_base;
  if (!set_thread(t, r, frame_sigmask(frame.data()))) return who(t.tid) + " has ended";
  return "";
}

std::string Rollback::settle_thread(Pair& p) {
  Thread& t = *thread(p.tid);
  const format::ThreadRecord& r = *p.record;
  const pid_t tid = t.leader ? static_cast<pid_t>(s_.hello_.pid) : t.inner_tid;
  // The word from which libc takes its thread id has come back with memory.
  if (tid != r.tid && r.clear_child_tid != 0 &&
      !world_->write_memory(r.clear_child_tid, &tid, sizeof(tid))) {
    return "writing memory";
  }
  format::Call* c = calls_at(p.list);
  for (uint64_t i = 0; i < list_at(p.list)->count; i++) {
    if (c[i].nr == __NR_rt_tgsigqueueinfo) c[i].args[1] = static_cast<uint64_t>(tid);
  }
  std::string why = thread_calls(t, p.list);
  if (!why.empty()) return why;
  put_schedule_back(p);
  return give_registers(p);
}

}  // namespace cr::agent
