// SPDX-License-Identifier: MIT
// quick_state.h - is the process what the newest image says of it? Asked by its only thread.
// Invariant: everything that an image holds beside pages is either compared here, or part of the
// slot, or named in docs/ARCHITECTURE.md ("The quick path") as read by ordinary checkpoints only.
// Context: N, in the program, with all signals blocked.
#pragma once

#include "format/quick.h"

namespace cr::control {

// sigmask: of the thread, before signals were blocked. Fills in slot.files with what has moved on
// in open files, which is no difference.
format::QuickRefusal compare_state(format::QuickHead& head, uint64_t sigmask,
                                   format::QuickSlot& slot);
// The part of it that the agent can look at as well.
format::QuickRefusal compare_map(format::QuickHead& head);

}  // namespace cr::control
