// SPDX-License-Identifier: MIT
// heap_ranges.h - which pages of the stopped program's nvheap hold no block.
// Invariant: only pages are named whose every byte is free by the heap's own records as they stand;
// what is being changed, or makes no sense, counts as used.
// Context: N (agent), while the program is stopped.
#pragma once

#include <cstdint>
#include <vector>

#include "agent/world.h"

namespace cr::agent {

struct FreeRange {
  uint64_t start, end;
};

// Appends the free ranges of the heap whose directory's address is in the program's word at
// directory_word (0: none), unsorted.
// own_lock: the heap is locked by the thread that waits for this checkpoint, and thus in order.
void free_heap_ranges(const World& world, uint64_t directory_word, bool own_lock,
                      std::vector<FreeRange>* ret);

}  // namespace cr::agent
