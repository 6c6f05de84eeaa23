// SPDX-License-Identifier: MIT
// heap_layout.h - what lies where in the reserved range, and the metadata records.
// Invariant: range = HeapHeader | Slab per chunk | RemoteFrees per chunk | PageEntry per page |
// data. Only the parts of the three arrays that belong to data in use are accessible (see
// PageHeap::grow). The records are as small as they can be and lie side by side, because every page
// of them that changes is copied by the next checkpoint.
// Context: N; the agent reads the records of a stopped process (see HeapDirectory).
#pragma once

#include <atomic>
#include <cstdint>

#include "base/base.h"

namespace cr::nvheap {

// Pages and chunks are numbered from the beginning of the data part.
inline constexpr uint32_t kNil = UINT32_MAX;
inline constexpr uint64_t kChunkBytes = 64 * 1024;  // a slab; data grows by whole chunks
inline constexpr uint32_t kPagesPerChunk = kChunkBytes / kPageSize;

#if defined(__SANITIZE_THREAD__)
// ThreadSanitizer maps shadow memory where we would like to be; it allows these addresses.
inline constexpr uint64_t kPreferredBase = 0x7e8000000000;
inline constexpr uint64_t kBaseStepBytes = uint64_t{1} << 36;
inline constexpr uint64_t kBaseLimit = 0x7ec000000000;
#else
// Far above what the kernel gives to position-dependent programs and brk, far below the region
// that it fills downwards with mmap.
inline constexpr uint64_t kPreferredBase = 0x200000000000;
inline constexpr uint64_t kBaseStepBytes = uint64_t{1} << 40;
inline constexpr uint64_t kBaseLimit = 0x500000000000;
#endif
inline constexpr uint64_t kMaxReserveBytes = uint64_t{1} << 43;  // page numbers stay below kNil

enum class RunKind : uint32_t {
  kNone = 0,  // not the first page of a run
  kFree,      // a node of the tree of free runs
  kFreeing,   // being given back; belongs to the thread that frees it
  kLarge,     // one block
  kSlab,      // one chunk of small blocks; its Slab says more
  kStack,
  kKept,  // free, kept by a thread for its next block of that length
};

// For each page; only that of a run's first page means anything.
struct PageEntry {
  std::atomic<RunKind> kind;  // a thread changes that of its own block without the lock
  uint32_t pages;             // length of the run
  uint32_t left, right;       // kFree: subtrees
  uint32_t max_pages;         // kFree: longest run in this subtree
  uint32_t dirty;             // kFree: 0 if all its pages read as zero
};
static_assert(sizeof(PageEntry) == 24);

inline constexpr uint32_t kMaxBlocksPerSlab = 512;
inline constexpr uint32_t kSlabWords = kMaxBlocksPerSlab / 64;

// In a slab's key: it is listed and none of its blocks is used. So no fast path touches it.
inline constexpr uint32_t kEmptySlab = 1u << 31;

// For each chunk. Written by the thread that owns the slab, unless a field says otherwise; other
// threads read it without a lock, hence the atomics, which cost nothing when relaxed.
struct Slab {
  std::atomic<uint32_t> key;   // see slab_key; 0: the chunk is no slab
  std::atomic<uint16_t> used;  // blocks not in `free`, and those in the owner's Recent
  uint16_t wake;               // the owner's free looks up when `used` falls to this
  uint16_t blocks;
  uint16_t bytes;                     // of a block
  uint16_t recent;                    // byte offset in the ThreadHeap of this class's Recent
  uint16_t listed;                    // 1: in the owner's tree of slabs with free blocks
  uint32_t left, right;               // tree
  std::atomic<uint32_t> next_remote;  // written by other threads: stack of slabs with remote frees
  uint32_t reciprocal;                // of its class (ClassInfo)
  std::atomic<uint64_t> free[kSlabWords];  // a 1 for each free block

  uint32_t tag() const { return key.load(std::memory_order_acquire) & 0xff; }  // 1 + size class
  uint32_t owner() const {                                                     // ThreadHeap::id
    return (key.load(std::memory_order_relaxed) & ~kEmptySlab) >> 8;
  }
};
constexpr uint32_t slab_key(uint32_t size_class, uint32_t owner) {
  return (size_class + 1) | owner << 8;
}
static_assert(sizeof(Slab) == 96);

// Blocks that threads other than the owner have freed, until the owner takes them back.
struct RemoteFrees {
  std::atomic<uint64_t> bits[kSlabWords];
};
static_assert(sizeof(RemoteFrees) == 64);

// At the beginning of the range: what another process needs to understand a copy of the heap.
struct HeapDirectory {
  uint64_t magic;
  uint32_t version;
  uint32_t header_bytes;
  uint64_t base, reserve_bytes;
  uint64_t data_address, slabs, remotes, entries;  // addresses
  uint64_t grown_pages;                            // address of the uint32_t
  uint64_t page_lock;                              // address of its word; 0: the runs are in order
  uint64_t free_root;  // address of the uint32_t: root of the tree of free runs
};
inline constexpr uint64_t kHeapMagic = 0x3170616568766e63;  // "cnvheap1"
inline constexpr uint32_t kHeapVersion = 2;

}  // namespace cr::nvheap
