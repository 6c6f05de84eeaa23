// SPDX-License-Identifier: MIT
// time_namespace.h - clocks that go on where they were: a restored program lives in a time
// namespace whose CLOCK_MONOTONIC and CLOCK_BOOTTIME say what they said at the checkpoint, whatever
// was between, a reboot too.
// Invariant: the clocks of this process are never changed, only those of children made afterwards.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Clocks".
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <string>

#include "format/image_reader.h"

namespace cr::agent {

enum class Clock {
  kAuto,      // they go on where that is allowed
  kContinue,  // or it is an error
  kHost,      // they are this machine's
};

struct SavedClocks {
  uint64_t monotonic_ns = 0, boottime_ns = 0;
};
SavedClocks saved_clocks(const format::ImageView& image);

// For children that are made from now on. 0, or an errno.
int continue_clocks(const SavedClocks& saved);
// The text for /proc/PID/timens_offsets; now: this machine's clocks.
std::string clock_offsets(const SavedClocks& saved, const SavedClocks& now);

// How far the process's monotonic clock is ahead of this process's, in nanoseconds.
int64_t clock_ahead(pid_t pid);

// What became of the clocks of a restored process: "its clocks go on", or by how much they jumped.
std::string clock_words(const SavedClocks& saved, pid_t pid);

}  // namespace cr::agent
