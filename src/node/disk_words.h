// SPDX-License-Identifier: MIT
// disk_words.h - what is said of a disk or a file system that refuses: the path, the cause and the
// next step, the same whoever writes there.
// Invariant: none; text only. Context: N.
#pragma once

#include <string>

#include "base/base.h"

namespace cr::node {

// An error for people: what failed, and the system's words.
std::string words_of(const Error& error);
// "make room there, ..."; for an errno.
const char* next_step(int sys_errno);
// "PATH: writing: No space left on device; make room there, ..."; the next step is left out where
// the system had nothing to do with it.
std::string disk_words(const std::string& path, const Error& error);

}  // namespace cr::node
