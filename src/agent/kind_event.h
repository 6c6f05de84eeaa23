// SPDX-License-Identifier: MIT
// kind_event.h - what a kernel before 6.5 does not tell of an eventfd.
// Invariant: its count is what it was. Context: N (agent), while the program is stopped.
#pragma once

#include <stdint.h>

namespace cr::agent {

// Is it a semaphore? count: as it is. false: it could not be found out.
bool find_semaphore(int fd, uint64_t count, bool* ret);

}  // namespace cr::agent
