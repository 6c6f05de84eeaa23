// SPDX-License-Identifier: MIT
// calls.h - tables of system calls that the program's process makes for the agent: those that act
// on the caller's own memory, descriptors or thread, and that nobody can make from outside. In the
// channel while all of its threads are held, and in the plan of a restore.
// Invariant: addresses are the program's; a call that fails ends the list unless it may fail.
// Context: N (agent), S and R (program). Doc: docs/ARCHITECTURE.md, "One restore" and "restore() in
// place".
#pragma once

#include <stdint.h>

#include "format/image.h"

namespace cr::format {

inline constexpr uint32_t kCallMayFail = 1;
inline constexpr uint32_t kCallReturns = 2;  // it must return what `result` says

// How an argument is to be taken; four bits for each in Call::arg_kinds.
enum ArgKind : uint32_t {
  kArgPlain = 0,
  kArgData = 1,    // an offset in the data that goes with the list: its address
  kArgResult = 2,  // number of an earlier call of the list: what that returned
  kArgId = 3,      // a process or thread id at the checkpoint: what it is now
};
inline constexpr uint32_t kArgKindBits = 4;

// Numbers of what is more than one system call (make_call.h).
enum ComposedCall : uint64_t {
  kCallStoreId = 1ull << 32,  // writes the id args[0] to the 32-bit word at args[1]
  kCallAddDisarmed,           // epoll_ctl(args[0], ADD, args[1]) of an EPOLLONESHOT entry that has
                              // fired: events args[2], data args[3]
  kCallSignalGroup,           // F_SETOWN of args[0]: the process's group
  kCallMakeTimer,             // timer_create(args[0], args[1]) with the id args[2]
  kCallSetTimer,              // args: MakeTimer's id; interval and time left, as struct itimerspec;
                              // overruns of its last signal; that signal; its clock
  kCallFunction,              // calls the function at args[0] with args[1]: 0 or -errno
  kCallFilter,                // seccomp: flags; instructions; their number
};

struct Call {
  uint64_t nr;
  uint64_t args[6];
  int64_t result;  // out
  uint32_t flags;
  uint32_t arg_kinds;
};
CR_ON_DISK(Call, 72);

// The calls follow.
struct CallList {
  uint32_t done;    // out: 1 when all were made, or one has failed
  uint32_t failed;  // out: 0, or 1 + index of the one that failed
  uint64_t count;
};
CR_ON_DISK(CallList, 16);

}  // namespace cr::format
