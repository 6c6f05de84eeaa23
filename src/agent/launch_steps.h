// SPDX-License-Identifier: MIT
// launch_steps.h - what launching one process and launching a tree have in common.
// Invariant: as launch.h. Context: N (agent).
#pragma once

#include <stdint.h>
#include <sys/types.h>

namespace cr::agent {

// clone3 as fork, with a process id; 0: any.
pid_t fork_with_id(pid_t id, uint64_t flags);

}  // namespace cr::agent
