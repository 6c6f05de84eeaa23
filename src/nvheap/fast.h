// SPDX-License-Identifier: MIT
// fast.h - the beginnings of allocate and deallocate that most calls need nothing beyond, to be
// inlined where a call more would be noticed.
// Invariant: they may be tried at any time, before there is a heap and in debug mode as well.
// Context: N.
#pragma once

#include "nvheap/size_class.h"
#include "nvheap/small_heap.h"

namespace cr::nvheap {

// nullptr: take the long way, allocate().
[[gnu::always_inline]] inline void* allocate_fast(size_t bytes) {
  if (bytes > kMaxSmallBytes) [[unlikely]]
    return nullptr;
  return SmallHeap::allocate_fast(class_of_bytes(bytes));
}

// False: nothing was done; take the long way, deallocate().
[[gnu::always_inline]] inline bool deallocate_fast(void* block) {
  return SmallHeap::release_fast(reinterpret_cast<uint64_t>(block));
}

}  // namespace cr::nvheap
