// SPDX-License-Identifier: MIT
// timed_calls.cc - see timed_calls.h.
// Invariant: as there. The kernel restarts most calls by itself after a stop by ptrace, with the
// time left (ERESTART_RESTARTBLOCK); epoll_wait, sigtimedwait, semtimedop and socket calls with a
// timeout return EINTR even then (man 7 signal), and a restored process has no restart block.
// Context: N (agent).
#include "agent/timed_calls.h"

#include <asm/unistd.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <unordered_map>

#include "agent/cpu_clock.h"
#include "os/fd.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr long kErestartsys = 512, kErestartnointr = 513, kErestartnohand = 514,
               kErestartRestartblock = 516;

// Laid out as cr_resume_entry (src/control/arch/x86_64/entry.S) reads it.
struct ResumeFrame {
  uint64_t mode;  // 0: make the call; 1: wait for the socket first
  uint64_t nr;
  uint64_t args[6];
  uint64_t program_args[6];  // rdi rsi rdx r10 r8 r9 when done
  uint64_t rsp, rip;
  int64_t seconds, nanoseconds;
  struct {
    int fd;
    short events, revents;
  } poll;
};
static_assert(sizeof(ResumeFrame) == 152);

enum class Timeout {
  kMilliseconds,  // int argument; negative: none
  kTimespec,      // pointer argument; null: none
  kTimeval,
  kSocketReceive,  // SO_RCVTIMEO of the descriptor
  kSocketSend,
  kNone,  // returns EINTR though it has no timeout
};

struct TimedCall {
  long nr;
  Timeout kind;
  int argument;
};

constexpr TimedCall kTimedCalls[] = {
    {__NR_nanosleep, Timeout::kTimespec, 0},
    {__NR_clock_nanosleep, Timeout::kTimespec, 2},
    {__NR_poll, Timeout::kMilliseconds, 2},
    {__NR_futex, Timeout::kTimespec, 3},
    {__NR_epoll_wait, Timeout::kMilliseconds, 3},
    {__NR_epoll_pwait, Timeout::kMilliseconds, 3},
    {441 /* epoll_pwait2 */, Timeout::kTimespec, 3},
    {__NR_rt_sigtimedwait, Timeout::kTimespec, 2},
    {__NR_semtimedop, Timeout::kTimespec, 3},
    {__NR_semop, Timeout::kNone, 0},
    {__NR_io_getevents, Timeout::kTimespec, 4},
    {__NR_recvfrom, Timeout::kSocketReceive, 0},
    {__NR_recvmsg, Timeout::kSocketReceive, 0},
    {__NR_recvmmsg, Timeout::kSocketReceive, 0},
    {__NR_read, Timeout::kSocketReceive, 0},
    {__NR_readv, Timeout::kSocketReceive, 0},
    {__NR_accept, Timeout::kSocketReceive, 0},
    {__NR_accept4, Timeout::kSocketReceive, 0},
    {__NR_sendto, Timeout::kSocketSend, 0},
    {__NR_sendmsg, Timeout::kSocketSend, 0},
    // These return EINTR where the kernel cannot write the time left to the program's timeout.
    {__NR_ppoll, Timeout::kTimespec, 2},
    {__NR_pselect6, Timeout::kTimespec, 4},
    {426 /* io_uring_enter */, Timeout::kNone, 0},
    {__NR_select, Timeout::kTimeval, 4},
    {__NR_write, Timeout::kSocketSend, 0},
    {__NR_connect, Timeout::kSocketSend, 0},
};

const TimedCall* find(long nr) {
  for (const TimedCall& c : kTimedCalls) {
    if (c.nr == nr) return &c;
  }
  return nullptr;
}

uint64_t* argument(user_regs_struct& r, int i) {
  unsigned long long* a[6] = {&r.rdi, &r.rsi, &r.rdx, &r.r10, &r.r8, &r.r9};
  return reinterpret_cast<uint64_t*>(a[i]);
}

// Make the call again from the beginning.
void redo(user_regs_struct& r) {
  r.rax = r.orig_rax;
  r.rip -= 2;  // the syscall instruction
  r.orig_rax = ~0ull;
}

// clock_nanosleep and futex wait until a point in time with these: making the call again is exact.
bool is_absolute(const user_regs_struct& r, long nr) {
  if (nr == __NR_clock_nanosleep) return (r.rsi & TIMER_ABSTIME) != 0;
  if (nr == __NR_futex) return (r.rsi & FUTEX_CMD_MASK) != FUTEX_WAIT;
  return false;
}

// SO_RCVTIMEO or SO_SNDTIMEO of the program's descriptor; false if it is no socket or has none.
bool socket_timeout(int pidfd, int fd, int option, int64_t* ret_ns) {
  os::Fd copy(static_cast<int>(syscall(__NR_pidfd_getfd, pidfd, fd, 0)));
  timeval tv{};
  socklen_t n = sizeof(tv);
  if (!copy || getsockopt(copy.get(), SOL_SOCKET, option, &tv, &n) != 0) return false;
  *ret_ns = static_cast<int64_t>(tv.tv_sec) * 1000000000 + tv.tv_usec * 1000;
  return *ret_ns > 0;
}

void set_time_left(ResumeFrame& f, int64_t total_ns, uint64_t passed_ns) {
  const auto passed = static_cast<int64_t>(passed_ns);
  const int64_t left = total_ns > passed ? total_ns - passed : 0;
  f.seconds = left / 1000000000;
  f.nanoseconds = left % 1000000000;
}

// Rewrites the timeout of the call in f. at: where f will lie. false: it has none that runs.
bool shorten(ResumeFrame& f, uint64_t at, const TimedCall& c, const CallContext& x) {
  const uint64_t passed = x.before.asleep_ns;
  switch (c.kind) {
    case Timeout::kMilliseconds: {
      const auto ms = static_cast<int32_t>(f.args[c.argument]);
      if (ms <= 0) return false;
      const uint64_t gone = passed / 1000000, all = static_cast<uint64_t>(ms);
      f.args[c.argument] = gone < all ? all - gone : 0;
      return true;
    }
    case Timeout::kTimespec:
    case Timeout::kTimeval: {
      const bool micro = c.kind == Timeout::kTimeval;
      int64_t ts[2];
      if (f.args[c.argument] == 0 || !x.read(x.read_context, f.args[c.argument], ts, sizeof(ts))) {
        return false;
      }
      if (micro && ts[1] < 1000000) ts[1] *= 1000;
      if (ts[0] < 0 || ts[0] >= 4000000000 || ts[1] < 0 || ts[1] >= 1000000000) return false;
      set_time_left(f, ts[0] * 1000000000 + ts[1], passed);
      if (micro) f.nanoseconds /= 1000;
      f.args[c.argument] = at + offsetof(ResumeFrame, seconds);
      return true;
    }
    case Timeout::kSocketReceive:
    case Timeout::kSocketSend: {
      const bool receive = c.kind == Timeout::kSocketReceive;
      int64_t total;
      if (!socket_timeout(x.pidfd, static_cast<int>(f.args[0]), receive ? SO_RCVTIMEO : SO_SNDTIMEO,
                          &total)) {
        return false;
      }
      set_time_left(f, total, passed);
      f.mode = 1;
      f.poll = {static_cast<int>(f.args[0]), static_cast<short>(receive ? POLLIN : POLLOUT), 0};
      return true;
    }
    case Timeout::kNone:
      return false;
  }
  return false;
}

constexpr uint64_t kResumeCodeBytes = 256;  // more than cr_resume_entry is long

struct Plan {
  user_regs_struct regs;
  std::vector<Poke> pokes;
};

// Make the call again, with the time left: through a frame on the thread's own stack, below the red
// zone, that cr_resume_entry works off; without a running timeout simply again.
Plan again(const user_regs_struct& r, const TimedCall* c, const CallContext& x) {
  Plan p{r, {}};
  const bool same_call =
      x.before.syscall_nr == static_cast<long>(r.orig_rax) && x.before.asleep_known;
  ResumeFrame f{};
  uint64_t at = (r.rsp - 128 - sizeof(f)) & ~15ull;
  if (r.rip - x.resume_entry < kResumeCodeBytes) {
    // Interrupted while working off a frame already: shorten that one, or frames would pile up.
    at = r.rsp;
    if (!x.read(x.read_context, at, &f, sizeof(f))) {
      redo(p.regs);
      return p;
    }
  } else {
    f.nr = r.orig_rax;
    f.rsp = r.rsp;
    f.rip = r.rip;
    for (int i = 0; i < 6; i++) f.args[i] = f.program_args[i] = *argument(p.regs, i);
  }
  constexpr uint64_t kNegligible = 100000;
  if (c == nullptr || !same_call || x.resume_entry == 0 || x.before.asleep_ns < kNegligible ||
      is_absolute(r, static_cast<long>(r.orig_rax)) || !shorten(f, at, *c, x)) {
    redo(p.regs);
    return p;
  }
  Poke poke;
  poke.addr = at;
  poke.bytes.resize(sizeof(f));
  memcpy(poke.bytes.data(), &f, sizeof(f));
  p.pokes.push_back(std::move(poke));
  p.regs.rsp = at;
  p.regs.rip = x.resume_entry;
  p.regs.orig_rax = ~0ull;
  return p;
}

// A thread that was stopped in a sleep, goes on and is stopped again in the same sleep, is by then
// in restart_syscall: the kernel knows the call and its end, and does not tell. So what it was is
// noted at the first stop, by thread.
struct Begun {
  long nr;
  uint64_t rip, rsp;  // the same call, as long as they are the same
  uint64_t since_ns;  // when the timeout in the program's memory began to run
};
std::unordered_map<pid_t, Begun> g_begun;

// Stopped before by somebody else (SIGSTOP): the number is in the instruction before, if it is
// there as in the C library's code. -1: it is not.
long number_in_code(const user_regs_struct& r, const CallContext& x) {
  uint8_t code[7];  // mov $nr,%eax; syscall
  if (x.read == nullptr || !x.read(x.read_context, r.rip - sizeof(code), code, sizeof(code))) {
    return -1;
  }
  int32_t nr;
  memcpy(&nr, code + 1, sizeof(nr));
  const bool plausible =
      nr == __NR_nanosleep || nr == __NR_clock_nanosleep || nr == __NR_poll || nr == __NR_futex;
  return code[0] == 0xb8 && plausible ? nr : -1;
}

// A call with a timeout that the kernel restarts with the time left, which the image cannot.
Continuation continue_restartable(const user_regs_struct& regs, CallContext x) {
  Continuation c;
  c.live = regs;
  user_regs_struct r = regs;
  const uint64_t now = rawsys::now_ns();
  if (static_cast<long>(regs.orig_rax) == __NR_restart_syscall) {
    const auto it = g_begun.find(x.before.tid);
    long nr;
    if (it != g_begun.end() && it->second.rip == regs.rip && it->second.rsp == regs.rsp) {
      nr = it->second.nr;
      x.before.asleep_known = true;
      x.before.asleep_ns = now - it->second.since_ns;
    } else {
      nr = number_in_code(regs, x);
    }
    if (nr < 0) {  // what the kernel itself would answer to restart_syscall in another process
      c.saved = regs;
      c.saved.rax = static_cast<unsigned long long>(-EINTR);
      c.saved.orig_rax = ~0ull;
      return c;
    }
    x.before.syscall_nr = nr;
    r.orig_rax = static_cast<unsigned long long>(nr);
  }
  const bool in_frame = regs.rip - x.resume_entry < kResumeCodeBytes;
  Plan p = again(r, find(static_cast<long>(r.orig_rax)), x);
  // A frame that was shortened counts from now on.
  const bool from_now = !x.before.asleep_known || (in_frame && !p.pokes.empty());
  g_begun[x.before.tid] = {static_cast<long>(r.orig_rax), regs.rip, regs.rsp,
                           from_now ? now : now - x.before.asleep_ns};
  c.saved = p.regs;
  c.pokes = std::move(p.pokes);
  return c;
}

// Field 39 of stat: the processor it last ran on.
int processor_of(const std::string& dir) {
  auto text = os::read_file(dir + "stat");
  if (!text) return -1;
  size_t at = text->rfind(')');
  for (int field = 2; field < 39 && at != std::string::npos; field++) at = text->find(' ', at + 1);
  return at == std::string::npos ? -1 : static_cast<int>(strtol(text->c_str() + at, nullptr, 10));
}

// text: /proc/PID/syscall, the number and six arguments. False: the call has no timeout, or none
// that making it again would not know.
bool may_run_out(const std::string& text, long nr) {
  const TimedCall* c = find(nr);
  if (c == nullptr || c->kind == Timeout::kNone) return false;
  user_regs_struct r{};
  unsigned long long a[6] = {};
  if (sscanf(text.c_str(), "%*d %llx %llx %llx %llx %llx %llx", &a[0], &a[1], &a[2], &a[3], &a[4],
             &a[5]) != 6) {
    return true;
  }
  r.rsi = a[1];
  if (is_absolute(r, nr)) return false;
  if (c->kind == Timeout::kTimespec || c->kind == Timeout::kTimeval) return a[c->argument] != 0;
  if (c->kind == Timeout::kMilliseconds) return static_cast<int32_t>(a[c->argument]) > 0;
  return true;
}

}  // namespace

BeforeStop look_before_stop(pid_t pid, pid_t tid) {
  BeforeStop b;
  b.tid = tid;
  const std::string dir = os::task_path(pid, tid, "");
  auto text = os::read_file(dir + "syscall");
  if (!text || text->starts_with("running") || text->starts_with("-1")) return b;
  char* end = nullptr;
  b.syscall_nr = strtol(text->c_str(), &end, 10);
  b.first_arg = strtoull(end, nullptr, 16);
  if (b.syscall_nr != __NR_restart_syscall && !may_run_out(*text, b.syscall_nr)) return b;
  uint64_t slept_since, now;
  const int cpu = processor_of(dir);
  if (cpu >= 0 && last_ran(dir + "sched", &slept_since, &b.switches) &&
      scheduler_now_ns(cpu, &now)) {
    b.asleep_known = true;
    b.asleep_ns = now > slept_since ? now - slept_since : 0;
  }
  return b;
}

void look_again(pid_t pid, uint64_t switches, BeforeStop& before) {
  if (!before.asleep_known || switches == before.switches + 1) return;  // the stop itself is one
  uint64_t ns;
  if (switches == 0 && last_ran(os::task_path(pid, before.tid, "sched"), &ns, &switches) &&
      switches == before.switches + 1) {
    return;
  }
  before.asleep_ns = 0;
}

Continuation continue_call(const user_regs_struct& regs, const CallContext& x) {
  Continuation c;
  c.live = c.saved = regs;
  const auto nr = static_cast<long>(regs.orig_rax);
  if (nr < 0) return c;  // not in a system call
  const long error = -static_cast<long>(regs.rax);
  // For the running process the kernel itself decides between EINTR and restarting; the saved
  // registers must anticipate its decision.
  const bool handler_ends_it =
      x.signal == Deliverable::kInterrupting ||
      (x.signal == Deliverable::kRestarting && error != kErestartsys && error != kErestartnointr);
  switch (error) {
    case kErestartsys:
    case kErestartnointr:
    case kErestartnohand:
      if (handler_ends_it && error != kErestartnointr) {
        c.saved.rax = static_cast<unsigned long long>(-EINTR);
        c.saved.orig_rax = ~0ull;
      } else {
        redo(c.saved);
      }
      return c;
    case kErestartRestartblock: {
      if (handler_ends_it) {
        c.saved.rax = static_cast<unsigned long long>(-EINTR);
        c.saved.orig_rax = ~0ull;
        return c;
      }
      return continue_restartable(regs, x);
    }
    case EINTR: {
      if (find(nr) == nullptr || handler_ends_it) return c;
      Plan p = again(regs, find(nr), x);
      c.saved = c.live = p.regs;
      c.pokes = std::move(p.pokes);
      c.live_changed = true;
      return c;
    }
    default:
      return c;
  }
}

}  // namespace cr::agent
