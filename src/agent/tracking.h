// SPDX-License-Identifier: MIT
// tracking.h - by which means the pages that do not change between checkpoints are found: what this
// machine has, and which is taken (--track).
// Invariant: a back end is only taken if it was tried and did what is needed of it; one that was
// asked for by name is never replaced by another in silence.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Back ends".
#pragma once

#include <stdint.h>

#include <string>

#include "format/channel.h"

namespace cr::agent {

// The value of --track; kTrackerUnknown is "auto". false: none.
bool tracking_of_word(const std::string& word, format::Tracker* ret);

// tracking_bit() of all that this process can have; tried once.
uint32_t possible_tracking();

// "" or why this machine does not have it, and what to take instead.
std::string check_tracking(format::Tracker wanted);
// The beginning of such a sentence: "--track=NAME cannot be had on Linux 6.1.0 ".
std::string why_not(format::Tracker wanted);

// kTrackerUnknown: it was asked for by name and is not among the possible ones.
format::Tracker choose_tracking(format::Tracker wanted, uint32_t possible);

// Does the kernel mark what is written, and clear the marks? Tried on a page of this process, whose
// marks are cleared.
bool try_soft_dirty();
// userfaultfd with asynchronous write protection, and PAGEMAP_SCAN.
bool try_userfault();

}  // namespace cr::agent
