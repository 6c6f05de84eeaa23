// SPDX-License-Identifier: MIT
// semaphores.h - which System V semaphores a process uses, as the agent reads it from the program's
// memory: the kernel tells neither who knows a set nor what it would undo at the end of a process.
// Invariant: changed by the library's wrappers alone. Same machine, same build: not durable.
// Context: N, S.
#pragma once

#include <stdint.h>

#include "format/image.h"

namespace cr::format {

inline constexpr uint32_t kMostSemaphoreSets = 256, kMostAdjustments = 1024, kMostUndoCalls = 64;

// What the end of the process would add to a semaphore (SEM_UNDO).
struct SemaphoreAdjustment {
  int32_t set;
  uint16_t number;
  int16_t adjust;
};
CR_ON_DISK(SemaphoreAdjustment, 8);

// A call with SEM_UNDO whose effect is not in the table yet. It is over where its thread has ended,
// or has left its frame by longjmp.
struct UndoCall {
  uint64_t frame;  // 0: free. The thread's stack pointer is below while the call lasts
  int32_t tid;     // as the program sees it
  uint32_t reserved;
};
CR_ON_DISK(UndoCall, 16);

struct SemaphoreTable {
  uint32_t lock;        // 0, or the process id of who holds it
  uint32_t overflowed;  // 1: there was more than there is room for
  int32_t owner;        // the process whose adjustments they are: a child inherits none
  uint32_t set_count, adjustment_count;
  uint32_t reserved;
  int32_t sets[kMostSemaphoreSets];
  SemaphoreAdjustment adjustments[kMostAdjustments];
  UndoCall calls[kMostUndoCalls];
};
CR_ON_DISK(SemaphoreTable, 24 + 4 * 256 + 8 * 1024 + 16 * 64);

}  // namespace cr::format
