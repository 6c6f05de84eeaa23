// SPDX-License-Identifier: MIT
// side_memory.h - memory in the program that is none of the program's: where the control thread
// remembers what it knows about pages.
// Invariant: it lies where neither the kernel nor a program puts mappings; never part of a
// checkpoint (the agent knows it by the name of its memfd) and never inherited by a fork child; all
// of it is allocated when it is made, so that using it cannot fail.
// Context: making and freeing N; using S.
#pragma once

#include <stdint.h>

namespace cr::capture {

struct SideMemory {
  uint8_t* data = nullptr;
  uint64_t bytes = 0;
  int fd = -1;  // of the same memory
};

// Zeroed. 0 or -errno, then *ret is as it was.
long make_side_memory(uint64_t bytes, SideMemory* ret);
void free_side_memory(SideMemory& memory);

}  // namespace cr::capture
