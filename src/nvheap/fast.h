// SPDX-License-Identifier: MIT
// fast.h - the beginnings of allocate and deallocate that most calls need nothing beyond, to be
// inlined where a call more would be noticed.
// Invariant: they may be tried at any time, before there is a heap and in debug mode as well.
// Context: N.
#pragma once

#include "nvheap/size_class.h"
#include "nvheap/small_heap.h"

namespace cr::nvheap {

// A block that was freed a moment ago. nullptr: go on with allocate_next().
[[gnu::always_inline]] inline void* allocate_recent(size_t bytes) {
  if (bytes > kMaxSmallBytes) [[unlikely]]
    return nullptr;
  return SmallHeap::allocate_recent(bytes);
}

// Of the slab that the thread takes blocks from. nullptr: take the long way, allocate().
[[gnu::always_inline]] inline void* allocate_next(size_t bytes) {
  if (bytes > kMaxSmallBytes) [[unlikely]]
    return nullptr;
  return SmallHeap::allocate_next(class_of_bytes(bytes));
}

// False: nothing was done; take the long way, deallocate_slowly().
[[gnu::always_inline]] inline bool deallocate_fast(void* block) {
  return SmallHeap::release_fast(reinterpret_cast<uint64_t>(block));
}

// deallocate() of what deallocate_fast() has left. The block may be null.
void deallocate_slowly(void* block, const char* call);

}  // namespace cr::nvheap
