// SPDX-License-Identifier: MIT
// slab_heap.h - blocks up to 32 KiB: each size class cuts 64 KiB slabs into blocks of one size.
// Invariant: which blocks are used is known only from the bitmaps in the SlabRecords, which lie
// outside the slabs; a class's tree holds exactly its slabs with a free block, and blocks are taken
// from the lowest of them, lowest first.
// Context: N. Thread-safe; one lock per class. Lock order: class, then PageHeap.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "nvheap/futex_lock.h"
#include "nvheap/page_heap.h"

namespace cr::nvheap {

// 8 classes in steps of 16 up to 128 bytes, then 4 per doubling up to 32 KiB.
inline constexpr uint32_t kSizeClasses = 40;
inline constexpr size_t kMaxSmallBytes = 32 * 1024;

constexpr uint32_t class_of_bytes(size_t bytes) {
  if (bytes <= 128) return bytes == 0 ? 0 : static_cast<uint32_t>((bytes - 1) / 16);
  const auto last = static_cast<uint32_t>(bytes - 1);
  const auto log2 = static_cast<uint32_t>(31 - __builtin_clz(last));
  return 8 + (log2 - 7) * 4 + ((last >> (log2 - 2)) & 3);
}
constexpr uint32_t bytes_of_class(uint32_t size_class) {
  if (size_class < 8) return (size_class + 1) * 16;
  const uint32_t base = 128u << ((size_class - 8) / 4);
  return base + ((size_class - 8) % 4 + 1) * (base / 4);
}
static_assert(bytes_of_class(kSizeClasses - 1) == kMaxSmallBytes);
static_assert(class_of_bytes(kMaxSmallBytes) == kSizeClasses - 1);

// What a pointer into a chunk is.
enum class BlockState { kNoSlab, kLive, kFree, kInterior };

class SlabHeap {
 public:
  void set_up(SlabRecord* records, PageHeap* pages);

  void* allocate(uint32_t size_class);
  // kLive: it was, and is free now. Else nothing was done. The chunk must be below grown_pages.
  BlockState release(uint64_t address);
  // *ret_bytes: the block's size; set only if kLive.
  BlockState look_up(uint64_t address, uint32_t* ret_bytes);

  uint64_t used_bytes() const;

  void lock_all_for_fork();
  void unlock_all_in_parent();
  void reset_locks_in_child();

 private:
  struct Slabs {
    SlabRecord* records;
    uint32_t& left(uint32_t i) const { return records[i].left; }
    uint32_t& right(uint32_t i) const { return records[i].right; }
    void update(uint32_t) const {}
  };
  struct alignas(64) SizeClass {
    FutexLock lock;
    uint32_t root = kNil;    // slabs with a free block
    uint32_t lowest = kNil;  // the lowest of them
    uint32_t empty = kNil;   // one of them that has no used block and is kept nonetheless
    uint32_t block_bytes = 0;
    uint32_t blocks_per_slab = 0;
    uint32_t reciprocal = 0;  // ceil(2^32 / block_bytes)
    std::atomic<uint64_t> used_blocks{0};
  };

  struct Place {
    uint32_t chunk, block;
    BlockState state;
  };
  Place place_of(const SizeClass& c, uint64_t address) const;
  uint32_t add_slab(uint32_t size_class);
  void insert(SizeClass& c, uint32_t chunk);
  void erase(SizeClass& c, uint32_t chunk);
  uint32_t retire_if_spare(SizeClass& c, uint32_t chunk);

  SizeClass classes_[kSizeClasses];
  SlabRecord* records_ = nullptr;
  PageHeap* pages_ = nullptr;
  uint64_t data_address_ = 0;
};

}  // namespace cr::nvheap
