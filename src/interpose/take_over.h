// SPDX-License-Identifier: MIT
// take_over.h - a freshly started program becomes the restored one.
// Invariant: does not return on success. Context: N, single-threaded, before main().
#pragma once

namespace cr::interpose {

// Fetch plan, image and descriptors from the agent that listens in dir, and jump into the restorer.
// On failure a line is written to standard error and the process ends with status 125.
[[noreturn]] void take_over(const char* dir);

}  // namespace cr::interpose
