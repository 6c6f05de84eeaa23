// SPDX-License-Identifier: MIT
// calls.h - makes the system calls of a list (src/format/calls.h).
// Invariant: touches no floating-point or vector register, because an interrupted thread's may be
// live. Context: S.
#pragma once

#include "format/calls.h"

namespace cr::control {

// Returns 0, or the error of the call that failed, as -errno.
long make_calls(format::CallList* list);

}  // namespace cr::control
