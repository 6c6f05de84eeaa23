// SPDX-License-Identifier: MIT
// debug_blocks.h - CR_HEAP_DEBUG=1: guard bytes behind each block, and a quarantine for freed ones.
// Invariant: a block of `usable` bytes holds the program's n bytes, guard bytes, and in its last 8
// bytes n with a mark that says live or retired. A retired block is filled with one byte and stays
// allocated until the quarantine is full.
// Context: N. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nvheap/futex_lock.h"

namespace cr::nvheap {

class DebugBlocks {
 public:
  static constexpr size_t kExtraBytes = 24;  // the size, and at least 16 guard bytes

  struct Entry {
    void* block;
    uint64_t usable, bytes;
  };

  static void arm(void* block, uint64_t usable, uint64_t bytes);
  // The program's bytes of a live block. Ends the program if its guard bytes were overwritten.
  static uint64_t check(const void* block, uint64_t usable, const char* call);
  static bool is_retired(const void* block, uint64_t usable);
  // Puts a live block into quarantine. Returns what falls out of it and can be freed; block
  // nullptr: nothing.
  Entry retire(void* block, uint64_t usable, const char* call);
  // Ends the program if a retired block was written to.
  static void check_untouched(const Entry& entry, const char* call);

  HeapLock& lock_for_fork() { return lock_; }

 private:
  static constexpr uint32_t kEntries = 1024;
  static constexpr uint64_t kMostBytes = 64 << 20;

  HeapLock lock_;
  Entry ring_[kEntries];
  uint32_t first_ = 0, count_ = 0;
  uint64_t held_bytes_ = 0;
};

}  // namespace cr::nvheap
