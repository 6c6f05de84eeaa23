// SPDX-License-Identifier: MIT
// control.cc - the control thread's loop and how API calls reach it.
// Invariant: see control.h. The thread is made by a raw clone, never by pthread_create: a second
// pthread makes glibc's locks and C++'s shared_ptr several times slower.
// Context: N for start/ask; the thread itself has no libc and no TLS of its own.
#include "control/control.h"

#include <errno.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "capture/capture.h"
#include "capture/pagemap.h"
#include "capture/quick_pages.h"
#include "control/calls.h"
#include "rawsys/rawsys.h"

extern "C" {
long cr_clone_control(unsigned long flags, void* stack_top, int* parent_tid);
void cr_control_entry();
void cr_resume_entry();
void cr_resume_end();
void cr_report_entry();
void cr_calls_entry();
void cr_join_entry();
// The linker's: where this library begins and ends.
[[gnu::visibility("hidden")]] extern const char __ehdr_start, _end;
[[noreturn]] void cr_control_main(uint64_t restored);
}

namespace cr::control {
namespace {

using rawsys::sys;
using rawsys::sys_futex;

using format::kControlStackBytes;
using format::kReportSlots;
using format::kReportStackBytes;
alignas(kPageSize) constinit unsigned char g_control_stack[kControlStackBytes] = {};
alignas(kPageSize) constinit unsigned char g_report_stacks[kReportSlots * kReportStackBytes] = {};
constinit State g_state = {};
constinit format::Exclusions g_exclusions = {};
constinit format::PluginTable g_plugins = {};
constinit format::SemaphoreTable g_semaphores = {};

uint32_t load(const uint32_t& w) { return __atomic_load_n(&w, __ATOMIC_ACQUIRE); }
uint64_t load(const uint64_t& w) { return __atomic_load_n(&w, __ATOMIC_ACQUIRE); }

void set_status(uint32_t v) {
  __atomic_store_n(&g_state.status, v, __ATOMIC_RELEASE);
  sys_futex(&g_state.status, FUTEX_WAKE_PRIVATE, 0x7fffffff);
}

void ring(format::ChannelHeader* ch) {
  __atomic_add_fetch(&ch->doorbell, 1, __ATOMIC_ACQ_REL);
  sys_futex(&ch->doorbell, FUTEX_WAKE, 0x7fffffff);
}

// ---- the thread's side ------------------------------------------------------------------------

class ControlThread {
 public:
  long attach(bool restored);
  [[noreturn]] void serve();

 private:
  long connect_to_agent();
  long say_hello(bool restored);
  void run_command();
  long run_hooks_elsewhere(uint32_t when);
  long stand_still();
  void list_private_pages();
  void announce_quick();
  bool waits_for_agent();
  void forward_requests();
  void take_answer();
  bool agent_is_gone();
  long await_ranges();
  void give_up();
  void let_go();

  capture::Files files_;
  capture::Memory memory_;
  int sock_ = -1;
  uint32_t done_command_ = 0;
  format::ChannelHeader* ch_ = nullptr;
};

long ControlThread::connect_to_agent() {
  const long dir =
      rawsys::sys_openat(AT_FDCWD, g_state.session_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return dir;
  // Kept open for as long as the process lives; failing to lock is no reason not to run.
  const long lock = rawsys::sys_openat(static_cast<int>(dir), format::kProgramLockName,
                                       O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock >= 0) sys(__NR_flock, lock, LOCK_SH | LOCK_NB);
  const long s = sys(__NR_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (s < 0) return s;
  rawsys::LineBuffer<108> path;  // sun_path is short; the directory's own path need not be
  path.text("/proc/thread-self/fd/").dec(static_cast<uint64_t>(dir)).text("/");
  path.text(format::kAgentSocketName);
  sockaddr_un addr{};
  addr.sun_family = AF_UNIX;
  rawsys::str_copy(addr.sun_path, path.c_str(), sizeof(addr.sun_path));
  const long r = sys(__NR_connect, s, &addr, sizeof(addr));
  rawsys::sys_close(static_cast<int>(dir));
  if (r < 0) return r;
  sock_ = static_cast<int>(s);
  return 0;
}

// Sends Hello; receives Welcome with the channel's and the staging memory's descriptors.
long ControlThread::say_hello(bool restored) {
  const Addresses a = addresses();
  format::Hello hello{};
  hello.kind = format::kMessageHello;
  hello.version = format::kChannelVersion;
  hello.pid = static_cast<int32_t>(rawsys::sys_getpid());
  hello.tid = static_cast<int32_t>(rawsys::sys_gettid());
  hello.report_entry = a.report_entry;
  hello.report_stack_top = a.report_stack_top;
  hello.resume_entry = a.resume_entry;
  hello.control_entry = a.control_entry;
  hello.control_stack_top = a.control_stack_top;
  hello.library_start = a.library_start;
  hello.library_end = a.library_end;
  hello.state = a.state;
  hello.state_bytes = a.state_bytes;
  hello.exclusions = reinterpret_cast<uint64_t>(&g_exclusions);
  hello.plugins = reinterpret_cast<uint64_t>(&g_plugins);
  hello.semaphores = reinterpret_cast<uint64_t>(&g_semaphores);
  hello.calls_entry = reinterpret_cast<uint64_t>(&cr_calls_entry);
  hello.heap_words[0] = g_state.heap_words[0];
  hello.heap_words[1] = g_state.heap_words[1];
  hello.join_entry = reinterpret_cast<uint64_t>(&cr_join_entry);
  hello.restored = restored ? 1 : 0;
  long r = sys(__NR_sendto, sock_, &hello, sizeof(hello), MSG_NOSIGNAL, nullptr, 0);
  if (r < 0) return r;

  format::Report welcome{};
  iovec iov{&welcome, sizeof(welcome)};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof(control);
  do {
    r = sys(__NR_recvmsg, sock_, &msg, MSG_CMSG_CLOEXEC);
  } while (r == -EINTR);
  if (r < 0) return r;
  if (r == 0) return -EPIPE;
  if (welcome.kind != format::kMessageWelcome) {
    rawsys::str_copy(g_state.start_text, welcome.text, sizeof(g_state.start_text));
    g_state.start_code = static_cast<Errc>(welcome.code);
    return welcome.sys_errno != 0 ? -welcome.sys_errno : -EPERM;
  }
  const cmsghdr* c = CMSG_FIRSTHDR(&msg);
  if (c == nullptr || c->cmsg_len != CMSG_LEN(2 * sizeof(int))) return -EBADMSG;
  int fds[2];
  __builtin_memcpy(fds, CMSG_DATA(c), sizeof(fds));
  files_.staging = fds[1];
  // A thread may have been saved between reading the channel's address and using it: after a
  // restore the channel comes back where it was.
  const auto hint = reinterpret_cast<uint64_t>(g_state.channel);
  r = rawsys::sys_mmap(hint, format::kSharedBytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | (hint != 0 ? MAP_FIXED_NOREPLACE : 0), fds[0], 0);
  if (rawsys::is_error(r)) return r;
  rawsys::sys_close(fds[0]);
  ch_ = reinterpret_cast<format::ChannelHeader*>(r);
  sys(__NR_madvise, r, format::kSharedBytes, MADV_DONTFORK);
  sys(__NR_madvise, r, format::kSharedBytes, MADV_DONTDUMP);
  g_state.epoch = welcome.epoch;
  return 0;
}

long ControlThread::attach(bool restored) {
  // Never a copy of the table: that would keep the program's pipes open.
  long r = sys(__NR_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE);
  if (r < 0) return r;
  r = connect_to_agent();
  if (r != 0) return r;
  r = say_hello(restored);
  if (r != 0) return r;
  r = rawsys::sys_openat(AT_FDCWD, "/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);
  if (r < 0) return r;
  files_.pagemap = static_cast<int>(r);
  r = rawsys::sys_openat(AT_FDCWD, "/proc/thread-self/mem", O_RDONLY | O_CLOEXEC);
  if (r < 0) return r;
  files_.mem = static_cast<int>(r);
  ch_->use_pagemap_scan = capture::has_pagemap_scan(files_.pagemap) ? 1 : 0;
  if (ch_->use_pagemap_scan != 0) files_.tracker = static_cast<int>(capture::open_tracker());
  files_.clear_refs = static_cast<int>(
      rawsys::sys_openat(AT_FDCWD, "/proc/thread-self/clear_refs", O_WRONLY | O_CLOEXEC));
  memory_ = {};  // what lay there in another process
  ch_->can_track =
      format::tracking_bit(format::kTrackerEverything) | format::tracking_bit(format::kTrackerHash);
  if (files_.tracker >= 0) ch_->can_track |= format::tracking_bit(format::kTrackerUserfaultfd);
  if (files_.clear_refs >= 0) ch_->can_track |= format::tracking_bit(format::kTrackerSoftDirty);
  ch_->tracker_fd = files_.tracker;
  done_command_ = load(ch_->done_seq);
  g_state.channel = ch_;
  ch_->reports_addr = reinterpret_cast<uint64_t>(ch_->reports);
  return 0;
}

bool ControlThread::agent_is_gone() {
  struct {
    int fd;
    short events, revents;
  } p{sock_, 0, 0};
  timespec none{};
  const long r = sys(__NR_ppoll, &p, 1, &none, nullptr, 8);
  return r > 0 && (p.revents & (0x8 | 0x10)) != 0;  // POLLERR | POLLHUP
}

// The program runs on without checkpoints; waiting calls are told.
// Before the thread's end.
void ControlThread::let_go() {
  memory_.hashes.clear();
  memory_.soft_dirty.clear();
  g_state.channel = nullptr;
  set_status(kDetached);
}

void ControlThread::give_up() {
  memory_.hashes.clear();
  memory_.soft_dirty.clear();
  set_status(kAgentGone);
  for (State::LastAnswer& a : g_state.answers) {
    rawsys::str_copy(a.text, gone_text(), sizeof(a.text));
    a.code = static_cast<int32_t>(Errc::kAgentGone);
    a.sys_errno = 0;
  }
  for (uint64_t& id : g_state.answered) __atomic_store_n(&id, ~0ull, __ATOMIC_RELEASE);
  __atomic_add_fetch(&g_state.answer_word, 1, __ATOMIC_ACQ_REL);
  sys_futex(&g_state.answer_word, FUTEX_WAKE_PRIVATE, 0x7fffffff);
  const uint32_t never = 0;  // stays, for the sake of its lock on program.lock
  for (;;) sys_futex(&never, FUTEX_WAIT_PRIVATE, 0);
}

void ControlThread::take_answer() {
  const uint32_t kind = ch_->answer_kind % format::kAskKinds;
  State::LastAnswer& a = g_state.answers[kind];
  rawsys::str_copy(a.text, ch_->answer_text, sizeof(a.text));
  a.code = ch_->answer_code;
  a.sys_errno = ch_->answer_errno;
  __atomic_store_n(&g_state.answered[kind], ch_->answered_id, __ATOMIC_RELEASE);
  __atomic_add_fetch(&g_state.answer_word, 1, __ATOMIC_ACQ_REL);
  sys_futex(&g_state.answer_word, FUTEX_WAKE_PRIVATE, 0x7fffffff);
}

// Hooks are the program's code: its hook thread runs them. Bounded: a hook may hang.
long ControlThread::run_hooks_elsewhere(uint32_t when) {
  if (load(g_state.hook_threads) == 0) return 0;
  constexpr int kSlices = 300;
  const uint32_t before = load(g_state.hooks_done);
  g_state.hook_when = when;
  __atomic_add_fetch(&g_state.hooks_wanted, 1, __ATOMIC_ACQ_REL);
  sys_futex(&g_state.hooks_wanted, FUTEX_WAKE_PRIVATE, 1);
  for (int i = 0; i < kSlices && load(g_state.hooks_done) == before; i++) {
    const timespec slice{0, 100 * 1000 * 1000};
    sys_futex(&g_state.hooks_done, FUTEX_WAIT_PRIVATE, before, &slice);
  }
  return load(g_state.hooks_done) == before ? -ETIMEDOUT : 0;
}

// Requests that were with the agent at the checkpoint have come true: their callers are in a
// restored process.
void settle_requests(State& st) {
  uint64_t sent = 0;
  for (const uint64_t id : st.sent) sent = id > sent ? id : sent;
  st.caller_waiting = st.sent[0] > st.answered[0];
  // First that it was restored: who sees an answer looks for that once more.
  __atomic_store_n(&st.restored_up_to, sent, __ATOMIC_RELEASE);
  for (uint64_t& id : st.answered) __atomic_store_n(&id, sent, __ATOMIC_RELEASE);
}

// The caller of checkpoint() runs the hooks itself; without one the hook thread does.
void wake_restored(State& st) {
  __atomic_add_fetch(&st.answer_word, 1, __ATOMIC_ACQ_REL);
  if (st.caller_waiting) return;
  st.hook_when = 2;  // CR_HOOK_AFTER_RESTORE
  st.hooks_wanted++;
}

// restore() in place: the agent puts the memory of the process back, this thread's own variables
// with it; only this stack is left out. What must outlive that is kept here meanwhile.
long ControlThread::stand_still() {
  format::ChannelHeader* const ch = ch_;
  const ControlThread self = *this;
  const int32_t owner_pid = g_state.owner_pid;
  char dir[sizeof(g_state.session_dir)];
  __builtin_memcpy(dir, g_state.session_dir, sizeof(dir));
  __atomic_store_n(&ch->rollback, uint32_t{format::kRollbackHeld}, __ATOMIC_RELEASE);
  sys_futex(&ch->rollback, FUTEX_WAKE, 0x7fffffff);
  while (__atomic_load_n(&ch->rollback, __ATOMIC_ACQUIRE) == format::kRollbackHeld) {
    sys_futex(&ch->rollback, FUTEX_WAIT, format::kRollbackHeld);
  }
  *this = self;
  State& st = g_state;
  __builtin_memcpy(st.session_dir, dir, sizeof(dir));
  st.owner_pid = owner_pid;
  st.channel = ch;
  st.epoch = ch->arg0;
  st.status = kAttached;
  settle_requests(st);
  wake_restored(st);
  return 0;
}

// The agent reads the memory map while we describe the process.
long ControlThread::await_ranges() {
  // Only while it has another processor.
  const uint64_t spin_ns = ch_->apart != 0 ? 500000 : 0;
  const uint64_t begin = rawsys::now_ns();
  while (load(ch_->ranges_given) == format::kRangesAwaited) {
    if (rawsys::now_ns() - begin < spin_ns) {
      rawsys::cpu_relax();
      continue;
    }
    const timespec slice{0, 100 * 1000 * 1000};
    const long r = sys_futex(&ch_->ranges_given, FUTEX_WAIT, format::kRangesAwaited, &slice);
    if (r == -ETIMEDOUT && agent_is_gone()) return -EPIPE;
  }
  return load(ch_->ranges_given) == format::kRangesGiven ? 0 : -ECANCELED;
}

void ControlThread::run_command() {
  const uint32_t seq = load(ch_->command_seq);
  if (seq == done_command_) return;
  long r = 0;
  bool leave = false;
  switch (ch_->command) {
    case format::kCommandCapture: {
      capture::StoppedScope scope;  // the agent sends this only while it holds every thread
      const bool first = ch_->cursor_range == 0 && ch_->cursor_addr == 0;
      r = capture::describe_process(scope.proof(), *ch_);
      if (r == 0) r = await_ranges();
      // From `described` on the agent makes threads report.
      if (r == 0 && first) r = capture::begin_capture(scope.proof(), *ch_, files_, memory_);
      __atomic_store_n(&ch_->described, 1u, __ATOMIC_RELEASE);
      sys_futex(&ch_->described, FUTEX_WAKE, 0x7fffffff);
      if (r == 0) r = capture::copy_pages(scope.proof(), *ch_, files_, memory_);
      if (r == 0 && ch_->more == 0) list_private_pages();
      break;
    }
    case format::kCommandTrack: {
      capture::StoppedScope scope;
      r = capture::track_ranges(scope.proof(), *ch_, files_, memory_);
      break;
    }
    case format::kCommandEarly:
      r = capture::copy_early(*ch_, files_, memory_);
      break;
    case format::kCommandReserve:
      r = capture::reserve(ch_->arg0, *ch_, memory_);
      break;
    case format::kCommandDescribe: {
      capture::StoppedScope scope;
      r = capture::describe_process(scope.proof(), *ch_);
      break;
    }
    case format::kCommandReply:
      take_answer();
      break;
    case format::kCommandUnmap:
      r = rawsys::sys_munmap(ch_->arg0, ch_->arg1);
      break;
    case format::kCommandExit:
      leave = true;
      let_go();
      break;
    case format::kCommandHooks:
      r = run_hooks_elsewhere(static_cast<uint32_t>(ch_->arg0));
      break;
    case format::kCommandCalls:
      r = make_calls(
          reinterpret_cast<format::CallList*>(reinterpret_cast<uint8_t*>(ch_) + ch_->arg0));
      break;
    case format::kCommandRollback:
      r = stand_still();
      break;
    default:
      r = -EINVAL;
  }
  ch_->result_errno = static_cast<int32_t>(-r);
  done_command_ = seq;
  __atomic_store_n(&ch_->done_seq, seq, __ATOMIC_RELEASE);
  sys_futex(&ch_->done_seq, FUTEX_WAKE, 0x7fffffff);
  if (leave) rawsys::sys_exit_thread(static_cast<int>(ch_->arg0));
}

// For quick checkpoints that build upon this one.
void ControlThread::list_private_pages() {
  if (ch_->quick_ready == 0) return;
  format::QuickHead* const head = format::quick_head(ch_);
  if (head->list_private == 0) return;
  head->private_errno = static_cast<int32_t>(-capture::list_private(*head, files_.pagemap));
}

void ControlThread::announce_quick() {
  if (load(ch_->quick_ready) == 0) return;
  format::QuickHead* const head = format::quick_head(ch_);
  if (__atomic_exchange_n(&head->announce, 0u, __ATOMIC_SEQ_CST) == 0) return;
  format::Request q{};
  q.kind = format::kMessageQuick;
  sys(__NR_sendto, sock_, &q, sizeof(q), MSG_NOSIGNAL, nullptr, 0);
}

bool ControlThread::waits_for_agent() {
  for (uint32_t i = 0; i < format::kAskKinds; i++) {
    if (load(g_state.answered[i]) < g_state.sent[i]) return true;
  }
  if (load(ch_->quick_ready) == 0) return false;
  const format::QuickHead* head = format::quick_head(ch_);
  return load(head->finished) != load(head->published);
}

void ControlThread::forward_requests() {
  format::Request q{};
  static constexpr format::MessageKind kKinds[] = {
      format::kMessageCheckpoint, format::kMessageRollback, format::kMessageWait,
      format::kMessageWaitSafe, format::kMessageWaitFlushed};
  static_assert(sizeof(kKinds) / sizeof(kKinds[0]) == format::kAskKinds);
  for (uint32_t i = 0; i < format::kAskKinds; i++) {
    const uint64_t want = load(g_state.wanted[i]);
    if (want <= g_state.sent[i]) continue;
    g_state.sent[i] = want;
    q.kind = kKinds[i];
    q.id = want;
    sys(__NR_sendto, sock_, &q, sizeof(q), MSG_NOSIGNAL, nullptr, 0);
  }
  if (load(g_state.wanted_close) != 0) {
    g_state.wanted_close = 0;
    q.kind = format::kMessageClose;
    sys(__NR_sendto, sock_, &q, sizeof(q), MSG_NOSIGNAL, nullptr, 0);
  }
  if (g_state.wanted_interval != 0) {
    q.kind = format::kMessageSetInterval;
    q.interval_seconds = g_state.wanted_interval;
    g_state.wanted_interval = 0;
    sys(__NR_sendto, sock_, &q, sizeof(q), MSG_NOSIGNAL, nullptr, 0);
  }
}

void ControlThread::serve() {
  for (;;) {
    const uint32_t seen = load(ch_->doorbell);
    run_command();
    forward_requests();
    announce_quick();
    if (load(g_state.wanted_leave) != 0) {
      let_go();
      rawsys::sys_exit_thread(0);
    }
    // While somebody waits for an answer, look every so often whether the agent still lives.
    const bool waited_for = waits_for_agent();
    timespec slice{0, 100 * 1000 * 1000};
    const long r = sys_futex(&ch_->doorbell, FUTEX_WAIT, seen, waited_for ? &slice : nullptr);
    if (r == -ETIMEDOUT && agent_is_gone()) give_up();
  }
}

constinit ControlThread g_thread;

}  // namespace

State& state() { return g_state; }
format::Exclusions& exclusions() { return g_exclusions; }

format::PluginTable& plugins() { return g_plugins; }
format::SemaphoreTable& semaphores() { return g_semaphores; }

Addresses addresses() {
  auto u = [](auto* p) { return reinterpret_cast<uint64_t>(p); };
  return {u(&cr_report_entry),  u(g_report_stacks) + kReportStackBytes,
          u(&cr_resume_entry),  u(&cr_resume_end),
          u(&cr_control_entry), u(g_control_stack) + kControlStackBytes,
          u(&g_state),          sizeof(g_state),
          u(&__ehdr_start),     (u(&_end) + kPageSize - 1) / kPageSize * kPageSize};
}

bool attached() {
  return load(g_state.status) == kAttached && g_state.owner_pid == rawsys::sys_getpid();
}

bool tracks_mappings() {
  return attached() && load(g_state.channel->tracking) == format::kTrackerUserfaultfd &&
         g_state.channel->tracker_fd >= 0;
}

void allow_joining() { __atomic_store_n(&g_state.ready, format::kReadyToJoin, __ATOMIC_RELEASE); }

Result<void> start(const char* session_dir) {
  rawsys::str_copy(g_state.session_dir, session_dir, sizeof(g_state.session_dir));
  forget_parent(g_state, static_cast<int32_t>(rawsys::sys_getpid()));
  set_status(kStarting);
  uint64_t all = ~0ull, old = 0;
  sys(__NR_rt_sigprocmask, SIG_SETMASK, &all, &old, 8);
  int tid = 0;
  const unsigned long flags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  const long r = cr_clone_control(flags, g_control_stack + kControlStackBytes, &tid);
  sys(__NR_rt_sigprocmask, SIG_SETMASK, &old, nullptr, 8);
  if (r < 0) {
    set_status(kDetached);
    return Error{Errc::kSystem, static_cast<int>(-r), "starting the control thread"};
  }
  while (load(g_state.status) == kStarting) {
    sys_futex(&g_state.status, FUTEX_WAIT_PRIVATE, kStarting);
  }
  if (load(g_state.status) == kAttached) return {};
  set_status(kDetached);
  const Errc code = g_state.start_code != Errc::kOk ? g_state.start_code : Errc::kSystem;
  return Error{code, g_state.start_errno, g_state.start_text};
}

Answer ask(Ask what, char* ret_text, size_t text_cap) {
  const uint64_t id = __atomic_add_fetch(&g_state.next_id, 1, __ATOMIC_ACQ_REL);
  uint64_t* wanted = &g_state.wanted[static_cast<int>(what)];
  uint64_t seen = load(*wanted);
  while (seen < id && !__atomic_compare_exchange_n(wanted, &seen, id, false, __ATOMIC_ACQ_REL,
                                                   __ATOMIC_ACQUIRE)) {
  }
  // Between reading the pointer and ringing, a restore cannot move the channel under us without
  // having finished: a restored process's control thread looks at wanted_* before it sleeps.
  ring(g_state.channel);
  for (;;) {
    const uint32_t word = load(g_state.answer_word);
    if (id <= load(g_state.restored_up_to)) return {true, Errc::kOk, 0};
    if (id <= load(g_state.answered[static_cast<int>(what)])) break;
    sys_futex(&g_state.answer_word, FUTEX_WAIT_PRIVATE, word);
  }
  if (id <= load(g_state.restored_up_to)) return {true, Errc::kOk, 0};  // while we looked
  const State::LastAnswer& a = g_state.answers[static_cast<int>(what)];
  rawsys::str_copy(ret_text, a.text, text_cap);
  return {false, static_cast<Errc>(a.code), a.sys_errno};
}

void await_attached() {
  while (load(g_state.status) == kStarting) {
    sys_futex(&g_state.status, FUTEX_WAIT_PRIVATE, kStarting);
  }
}

const char* gone_text() {
  return "the agent process (crrun or cragent) has ended; the program runs on without checkpoints. "
         "Newest image: see crinspect";
}

void close() {
  __atomic_store_n(&g_state.wanted_close, 1u, __ATOMIC_RELEASE);
  ring(g_state.channel);
  constexpr int kSlices = 50;
  for (int i = 0; i < kSlices && load(g_state.status) == kAttached; i++) {
    const timespec slice{0, 100 * 1000 * 1000};
    sys_futex(&g_state.status, FUTEX_WAIT_PRIVATE, kAttached, &slice);
  }
}

bool give_way() {
  constexpr int kSlices = 20000;
  const auto threads = [] {
    struct stat st {};
    const bool known = sys(__NR_stat, "/proc/self/task", &st) == 0;
    return known ? static_cast<int>(st.st_nlink) - 2 : 0;
  };
  if (!attached() || threads() != 2) return false;
  __atomic_store_n(&g_state.ready, 0u, __ATOMIC_RELEASE);  // the agent shall not make one meanwhile
  __atomic_store_n(&g_state.wanted_leave, 1u, __ATOMIC_RELEASE);
  ring(g_state.channel);
  // It may be at work for a checkpoint first.
  for (int i = 0; i < kSlices && threads() != 1; i++) {
    const timespec moment{0, 100000};
    sys(__NR_nanosleep, &moment, nullptr);
  }
  g_state.wanted_leave = 0;
  if (threads() == 1) return true;
  allow_joining();
  return false;
}

void come_back() {
  char dir[sizeof(g_state.session_dir)];
  rawsys::str_copy(dir, g_state.session_dir, sizeof(dir));
  (void)start(dir);  // without the agent there are no checkpoints, as before
  allow_joining();
}

void set_interval(double seconds) {
  g_state.wanted_interval = seconds;
  ring(g_state.channel);
}

}  // namespace cr::control

using cr::control::g_thread;

// Entered on the control stack, by clone in a fresh process or by the restorer in a restored one.
void cr_control_main(uint64_t restored) {
  using namespace cr;
  using namespace cr::control;
  static constexpr char kName[] = "cr-control";
  rawsys::sys(__NR_prctl, PR_SET_NAME, kName);
  State& st = state();
  // What the memory says about a thread that was, here or in the parent, is void.
  new (&g_thread) ControlThread();
  if (restored != 0) {
    st.owner_pid = static_cast<int32_t>(rawsys::sys_getpid());
    // Before anybody learns that he was restored, and asks again.
    __atomic_store_n(&st.status, kStarting, __ATOMIC_RELEASE);
    settle_requests(st);
  }
  const long r = g_thread.attach(restored != 0);
  if (r != 0) {
    st.start_errno = static_cast<int32_t>(-r);
    if (st.start_text[0] == 0) {
      rawsys::str_copy(st.start_text, "attaching to the agent", sizeof(st.start_text));
    }
    set_status(kFailed);
    rawsys::sys_exit_thread(0);
  }
  if (restored != 0) wake_restored(st);
  set_status(kAttached);
  g_thread.serve();
}
