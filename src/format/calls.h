// SPDX-License-Identifier: MIT
// calls.h - a table of system calls in the channel that the program's process makes for the agent
// while all of its threads are held: those that act on the caller's own memory, descriptors or
// thread, and that nobody can make from outside.
// Invariant: addresses are the program's; a call that fails ends the list unless it may fail.
// Context: N (agent), S (program). Doc: docs/ARCHITECTURE.md, "restore() in place".
#pragma once

#include <stdint.h>

#include "format/image.h"

namespace cr::format {

inline constexpr uint32_t kCallMayFail = 1;

struct Call {
  uint64_t nr;
  uint64_t args[6];
  int64_t result;  // out
  uint32_t flags;
  uint32_t reserved;
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
