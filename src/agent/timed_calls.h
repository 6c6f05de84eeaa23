// SPDX-License-Identifier: MIT
// timed_calls.h - system calls with a timeout that a stop interrupts: going on with the time left.
// Invariant: no call of the program returns EINTR because of a checkpoint, and none waits longer
// than it asked for by more than the accuracy of the scheduler's clock.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Interrupted system calls".
#pragma once

#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include <vector>

#include "base/base.h"

namespace cr::agent {

// What was known of a thread before it was stopped.
struct BeforeStop {
  long syscall_nr = -1;    // -1: it was running
  uint64_t first_arg = 0;  // of that call
  uint64_t asleep_ns = 0;  // how long it had been in that call
  bool asleep_known = false;
  uint64_t switches = 0;  // how often the thread had given up its processor by itself
  pid_t tid = 0;
};
BeforeStop look_before_stop(pid_t pid, pid_t tid);
// In the stop: if the thread left that call meanwhile, the one that it is in now has just begun.
// switches: as BeforeStop.switches, in the stop; 0: not known yet.
void look_again(pid_t pid, uint64_t switches, BeforeStop& before);

// Bytes to be put into the program's memory.
struct Poke {
  uint64_t addr = 0;
  std::vector<uint8_t> bytes;
};

// How to let an interrupted thread go on. `live` is for the running process, `saved` for the image.
struct Continuation {
  user_regs_struct live{}, saved{};
  std::vector<Poke> pokes;  // to be written whichever way it goes on
  bool live_changed = false;
};

// memory(addr, buffer, bytes): reads the program's memory; false if it cannot.
using ReadMemory = bool (*)(void* context, uint64_t addr, void* to, size_t bytes);

// A pending, unblocked signal with a handler: it will be delivered when the thread goes on, and
// decides whether the call returns EINTR as it would have without us.
enum class Deliverable { kNone, kRestarting /* SA_RESTART */, kInterrupting };

struct CallContext {
  BeforeStop before;
  Deliverable signal = Deliverable::kNone;
  uint64_t resume_entry = 0;  // cr_resume_entry in the program
  int pidfd = -1;             // to look at a socket's timeout
  ReadMemory read = nullptr;
  void* read_context = nullptr;
};

// regs as PTRACE_GETREGS gave them in a stop.
Continuation continue_call(const user_regs_struct& regs, const CallContext& context);

}  // namespace cr::agent
