// SPDX-License-Identifier: MIT
// help_copy.h - while the program stands still the agent has a processor to spare: it copies some
// of the pages that the control thread has found.
// Invariant: writes only to staging, and only where the control thread's table has reserved room;
// what cannot be copied here is left to the control thread.
// Context: N (agent), in a stop. Doc: docs/ARCHITECTURE.md, "One checkpoint".
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "format/channel.h"

namespace cr::agent {

// Returns when nothing is left to claim. tid: any thread of the program's. False: this process may
// not read the program's memory that way, and should not try again.
bool help_copy(pid_t tid, format::ChannelHeader& channel, format::Run* runs, uint8_t* staging,
               uint64_t staging_pages);

}  // namespace cr::agent
