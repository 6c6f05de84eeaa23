// SPDX-License-Identifier: MIT
// malloc.h - what the C functions of malloc.cc and the operators of operator_new.cc share.
// Invariant: a block in the heap's range is the heap's; any other came from the C library.
// Context: N. Doc: docs/ARCHITECTURE.md, "Interposed malloc".
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "nvheap/fast.h"
#include "nvheap/nvheap.h"

namespace cr::interpose {

// The range of the heap behind malloc. `bytes` is 0 before the first call, with CR_MODE=engine, and
// if there was no address space for a heap. Neither changes once it is not 0.
struct HeapRange {
  std::atomic<uint64_t> begin{0}, bytes{0};
};
extern constinit HeapRange g_range;

// The word by which the agent finds the heap (nvheap::directory_word), null before the first call.
// Defined in preload.cc, because the names of malloc.cc end inside OWN_HEAP_O (Makefile).
extern constinit const void* g_heap_word;

inline bool active() { return g_range.bytes.load(std::memory_order_acquire) != 0; }
inline bool ours(const void* block) {
  const uint64_t bytes = g_range.bytes.load(std::memory_order_acquire);
  return reinterpret_cast<uint64_t>(block) - g_range.begin.load(std::memory_order_relaxed) < bytes;
}

// Where the fast path ends. If the heap is full or not there, the C library's steps in; nullptr and
// ENOMEM if that has no memory either.
void* allocate_slowly(size_t bytes);
void* allocate_aligned_elsewhere(size_t align_bytes, size_t bytes);

[[gnu::always_inline]] inline void* allocate(size_t bytes) {
  if (void* block = nvheap::allocate_recent(bytes)) [[likely]]
    return block;
  return allocate_slowly(bytes);
}

// Frees what deallocate_fast does not. `call` is for the message.
void deallocate_slowly(void* block, const char* call);

// align_bytes: a power of two.
inline void* allocate_aligned(size_t align_bytes, size_t bytes) {
  if (active()) [[likely]] {
    if (void* block = nvheap::allocate_aligned(bytes, align_bytes)) [[likely]]
      return block;
  }
  return allocate_aligned_elsewhere(align_bytes, bytes);
}

// The definition of a function that the program would get without this library; nullptr: none.
void* next_definition(const char* name);

}  // namespace cr::interpose
