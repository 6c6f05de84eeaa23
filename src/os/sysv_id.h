// SPDX-License-Identifier: MIT
// sysv_id.h - Making a System V object again under the id that a program knows it by.
// Invariant: an object with another id is not left behind. Context: N.
#pragma once

#include <functional>

namespace cr::os {

struct SysvKind {
  const char* asking;  // "/proc/sys/kernel/..._next_id", which only root may write
  std::function<int()> make;
  std::function<void(int id)> remove;
};
// Returns the id of the object that was made, -1 with errno where none can be. It is another one
// than asked for where that is in use, or not ours to choose.
int make_with_id(const SysvKind& kind, int id);

}  // namespace cr::os
