// SPDX-License-Identifier: MIT
// syscall_names.h - names of x86_64 Linux system calls. Invariant: none is guessed.
// Context: N (agent).
#pragma once

#include <stdint.h>

#include <string>

namespace cr::agent {

// "futex"; "number 999" for one that is newer than the table.
std::string syscall_name(int64_t number);

}  // namespace cr::agent
