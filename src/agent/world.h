// SPDX-License-Identifier: MIT
// world.h - stops all threads of the program but the control thread, by ptrace, and describes them.
// Invariant: every thread that was seized is detached again, also on failure; registers and signal
// mask are what they were, except where a call must be made again with the time left.
// Context: N (agent), always on one and the same thread of the agent (ptrace is per thread).
// Doc: docs/ARCHITECTURE.md, "Stopping the world".
#pragma once

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#include <functional>
#include <string>
#include <vector>

#include "agent/heap_ranges.h"
#include "agent/timed_calls.h"
#include "base/base.h"
#include "format/channel.h"
#include "format/image.h"
#include "os/fd.h"

namespace cr::agent {

struct Thread {
  pid_t tid = 0;        // here
  pid_t inner_tid = 0;  // as the program sees it
  bool stopped = false;
  bool settled = false;  // it is decided how an interrupted call goes on
  bool outside = false;  // of the vDSO and the restorer
  bool leader = false;
  BeforeStop before;
  user_regs_struct regs{};   // in the stop
  user_regs_struct saved{};  // as the image gets them
  std::vector<uint8_t> xstate;
  uint64_t sigmask = 0;
  format::ThreadReport report{};
  uint64_t rseq_addr = 0;
  uint32_t rseq_bytes = 0, rseq_signature = 0;
  std::vector<siginfo_t> pending;
  std::vector<Poke> saved_pokes;
  long syscall_nr = -1;
  uint64_t switches = 0;  // as BeforeStop.switches, in the stop; 0: not known yet
  bool regs_known = false;
  // Of /proc/PID/task/TID, opened before the stop, because that takes longer than reading them.
  // Only the first threads have them: of many there would be too many.
  os::Fd status_fd, namespaces_fd;
};
// The thread's status file; "": it has ended.
std::string read_status(pid_t pid, const Thread& t);

// A failure with words made for the case at hand.
struct Trouble {
  Error error;
  std::string text;
  bool bad() const { return error.code != Errc::kOk; }
};
Trouble trouble(Errc code, int sys_errno, std::string text);

class World {
 public:
  // control_tid: in this process's pid namespace. hello: addresses in the program. unfinished: gets
  // the threads that resume() could neither let go nor bury in time; see finish_threads().
  World(pid_t pid, pid_t control_tid, const format::Hello& hello, int pidfd, int mem_fd,
        format::ChannelHeader* channel, std::vector<pid_t>& unfinished)
      : unfinished_(unfinished),
        pid_(pid),
        control_tid_(control_tid),
        hello_(hello),
        pidfd_(pidfd),
        mem_(mem_fd),
        channel_(channel) {}
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Stops every thread, or none.
  Trouble stop();
  // Fills in everything of every thread. Needs the process-wide dispositions (channel->process).
  // Between the two steps some threads are at work, telling about themselves, and must not be left
  // alone for a second (kReportPatienceSeconds). The second step is to be taken whatever became of
  // the first.
  Trouble begin_describe(const format::SigactionRecord* actions);
  Trouble end_describe();
  // Has the first thread, which was described, call the program's plug-ins.
  Trouble call_plugins();
  // The control thread must run while the others are held; a stop signal (SIGSTOP, Ctrl-Z) halts it
  // with the rest of the process, until it is let out of that stop here.
  void keep_control_running();
  // Lets all threads go on.
  void resume();

  // Makes a thread of a process without a control thread run hello.join_entry (join_stopped.cc).
  Trouble join();

  // It has one now.
  void bind(pid_t control_tid, const format::Hello& hello, int pidfd, int mem_fd,
            format::ChannelHeader* channel) {
    control_tid_ = control_tid;
    hello_ = hello;
    pidfd_ = pidfd;
    mem_ = mem_fd;
    channel_ = channel;
  }

  // For restore() in place: waits for the stop that PTRACE_INTERRUPT asked for.
  Trouble wait_for(Thread& t, uint64_t deadline_ns) { return wait_stopped(t, deadline_ns); }
  // Of a thread that runs code of ours. If not, it is let out of a stop signal's stop.
  bool has_ended(Thread& t);

  std::vector<Thread>& threads() { return threads_; }
  const std::vector<siginfo_t>& shared_pending() const { return shared_pending_; }
  bool leader_gone() const { return leader_gone_; }
  // The process ended while we held it; its wait status.
  bool died(int* ret_status) const;
  bool read_memory(uint64_t addr, void* to, size_t bytes) const;
  bool write_memory(uint64_t addr, const void* from, size_t bytes) const;
  MemoryReader reader() const {
    return [this](uint64_t addr, void* to, size_t bytes) { return read_memory(addr, to, bytes); };
  }

 private:
  Trouble seize_new(bool* ret_any);
  void note_end(Thread& t, int status);
  bool has_ended_unreported(Thread& t);
  // Between two looks whether a thread has stopped or ended: until there is a SIGCHLD, or a moment.
  void await_child(int round);
  Trouble wait_stopped(Thread& t, uint64_t deadline_ns);
  BeforeStop look(pid_t tid) const;
  Trouble let_out(Thread& t, int round, bool* ret_again);
  Trouble seize(pid_t tid, bool* ret_ended);
  Trouble describe_batch(size_t first, size_t count, const format::SigactionRecord* actions);
  void open_ahead(Thread& t);
  bool waits_in_vfork(const Thread& t) const;
  Trouble begin_function(Thread& t, uint64_t slot, uint64_t entry, uint64_t arg, uint64_t arg2);
  Trouble end_function(Thread& t, uint64_t deadline_ns, const format::ThreadReport* report);
  Trouble begin_report(Thread& t, uint64_t slot);
  Trouble await_report(Thread& t, uint64_t slot, uint64_t deadline_ns);
  Trouble end_report(Thread& t, uint64_t slot, uint64_t deadline_ns);
  void bury(Thread& t);
  bool all_dead() const;
  void release_control();
  Trouble describe_thread(Thread& t, const format::SigactionRecord* actions);
  Trouble settle_call(Thread& t, const format::SigactionRecord* actions);
  void settle_calls();
  Deliverable deliverable(const Thread& t, const format::SigactionRecord* actions) const;
  bool set_regs(const Thread& t, const user_regs_struct& regs) const;

  std::vector<pid_t>& unfinished_;
  bool took_signal_ = false;  // SIGCHLD, of which the main loop has to hear
  pid_t pid_, control_tid_;
  format::Hello hello_;
  int pidfd_, mem_;
  format::ChannelHeader* channel_;
  std::vector<Thread> threads_;
  std::vector<Thread> let_go_;                   // nothing is closed before the program runs
  int opened_ahead_ = 0;                         // threads
  size_t report_first_ = 0, reports_begun_ = 0;  // of threads_: those that are telling
  std::vector<siginfo_t> shared_pending_;
  bool leader_gone_ = false;
  bool plugins_wanted_ = false;
  std::vector<pid_t> io_workers_;  // of the kernel
  bool leader_unburied_ = false;   // traced by us, its end not reported yet
  bool control_held_ = false;
  bool nested_ = true;
  bool dead_ = false;
  int dead_status_ = 0;
  uint64_t last_resume_ns_ = 0, stopping_since_ns_ = 0;
  uint64_t vdso_start_ = 0, vdso_end_ = 0;
  uint64_t restorer_start_ = 0, restorer_end_ = 0;

 public:
  // The program has a pid namespace of its own.
  void set_nested(bool nested) { nested_ = nested; }
  bool nested() const { return nested_; }
  // When the first thread was told to stop (monotonic); 0: none was.
  uint64_t stopping_since_ns() const { return stopping_since_ns_; }
  // No thread can have slept in one call for longer than since the last stop.
  void set_last_resume(uint64_t monotonic_ns) { last_resume_ns_ = monotonic_ns; }
  void set_vdso(uint64_t start, uint64_t end) {
    vdso_start_ = start;
    vdso_end_ = end;
  }
  // Of the restore that made this process, until its region is unmapped.
  void set_restorer(uint64_t start, uint64_t end) {
    restorer_start_ = start;
    restorer_end_ = end;
  }
};

// Between two looks at a word that a thread of the program will write.
void let_run(int round);

// The signals that are pending for a stopped thread, or for its process; but for SIGSTOP, which
// nobody can block: whether somebody halts the program is no state of it, and at a restore it would
// halt the restorer.
std::vector<siginfo_t> peek_signals(pid_t tid, bool shared);

// Lets go or buries those of the threads that can be by now, and takes them from the list. True,
// with its wait status, if one of them was the first thread of process `pid`, and has ended.
// A thread that is not dealt with stays a zombie when it ends, and its process with it.
bool finish_threads(std::vector<pid_t>& unfinished, pid_t pid, int* ret_status);

}  // namespace cr::agent
