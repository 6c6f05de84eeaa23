// SPDX-License-Identifier: MIT
// slice.h - how long the fair scheduler lets a thread compute before others that want to run, which
// decides who goes first.
// Invariant: the share of the processor that a thread gets stays as it is.
// Context: N.
// Linux 6.12 and later; before, and for threads of other scheduling policies, nothing changes.
#pragma once

#include <sys/types.h>

namespace cr::os {

enum class Slice {
  kUsual,
  kShort,  // it runs as soon as it is woken, whoever computes there
  kLong,   // whoever has a usual one runs as soon as he is woken, and not at the next tick only
};

// tid 0: the calling thread, of which kUsual is what it had at the first call.
void set_slice(pid_t tid, Slice slice);

}  // namespace cr::os
