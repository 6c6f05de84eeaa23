// SPDX-License-Identifier: MIT
// heap_ranges.h - which pages of the stopped program's nvheap hold no block.
// Invariant: only pages are named whose every byte is free by the heap's own records as they stand;
// what is being changed, or makes no sense, counts as used.
// Context: N (agent); of memory that stands still.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "agent/address_set.h"

namespace cr::agent {

// The program's memory, as it is or as it was captured; false if it cannot be read.
using MemoryReader = std::function<bool(uint64_t addr, void* to, size_t bytes)>;

// Appends the free ranges of the heap whose directory's address is in the program's word at
// directory_word (0: none), unsorted.
// own_lock: the heap is locked by the thread that waits for this checkpoint, and thus in order.
void free_heap_ranges(const MemoryReader& read, uint64_t directory_word, bool own_lock,
                      std::vector<AddressRange>* ret);

// The part of that heap's address space that was never used, empty if there is no heap. It may be
// in use a moment later if the program runs.
AddressRange unused_heap_range(const MemoryReader& read, uint64_t directory_word);
// All of its address space; what is not accessible of it was never used.
AddressRange reserved_heap_range(const MemoryReader& read, uint64_t directory_word);

}  // namespace cr::agent
