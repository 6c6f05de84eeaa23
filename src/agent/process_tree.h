// SPDX-License-Identifier: MIT
// process_tree.h - which processes there are below another, and what is known of each.
// Invariant: nothing is changed. What is read of processes that run is out of date at once.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Process trees".
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "format/image.h"

namespace cr::agent {

// Of all its threads. Empty if it has none, or is gone.
std::vector<pid_t> children_of(pid_t pid);

// A process that has ended, and that its parent has not waited for.
bool is_zombie(pid_t pid);

// Whether its parent has waited for it or not.
bool has_ended(pid_t pid);

// Seconds since it was forked; 0 if it is gone.
double age_of(pid_t pid);

// "process 12 (cat)"
std::string name_of_process(pid_t pid);

// Do two processes have one memory? As a child of vfork before its exec.
bool share_memory(pid_t a, pid_t b);

// Ids as the processes see them; member, ppid and kTreeSubreaper are left to the caller. False: it
// is gone. ret_exit_signal: that its parent gets at its end; nullptr: of no interest.
bool describe_process_of_tree(pid_t pid, format::TreeRecord* ret, int* ret_exit_signal);

}  // namespace cr::agent
