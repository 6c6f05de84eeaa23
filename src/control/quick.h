// SPDX-License-Identifier: MIT
// quick.h - the quick path of checkpoint(): see format/quick.h.
// Invariant: an attempt that is none has changed nothing but, at worst, which pages count as
// written, and the agent knows of that.
// Context: N, in the program. Doc: docs/ARCHITECTURE.md, "The quick path".
#pragma once

#include <stdint.h>

namespace cr::control {

enum class Quick {
  kNone,      // ask the agent, as ever
  kCaptured,  // the agent will commit it
  kRestored,  // this is a restored process
};
Quick quick_checkpoint();

// Until the agent has taken an ordinary checkpoint: something has changed that quick ones do not
// look at.
void forbid_quick();

}  // namespace cr::control
