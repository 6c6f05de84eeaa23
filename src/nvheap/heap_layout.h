// SPDX-License-Identifier: MIT
// heap_layout.h - what lies where in the reserved range, and the metadata records.
// Invariant: range = HeapHeader | PageEntry per data page | SlabRecord per data chunk | data. Only
// the parts of the two arrays that belong to data in use are accessible (see PageHeap::grow).
// Context: N.
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
  kSlab,      // one chunk of small blocks; its SlabRecord says more
  kStack,
};

// For each page; only that of a run's first page means anything.
struct PageEntry {
  RunKind kind;
  uint32_t pages;        // length of the run
  uint32_t left, right;  // kFree: subtrees
  uint32_t max_pages;    // kFree: longest run in this subtree
  uint32_t dirty;        // kFree: 0 if all its pages read as zero
};
static_assert(sizeof(PageEntry) == 24);

inline constexpr uint32_t kMaxBlocksPerSlab = kChunkBytes / 16;

// For each chunk; means anything only while size_class is not 0.
struct SlabRecord {
  std::atomic<uint32_t> size_class;  // 1 + class; 0: the chunk is no slab. Written under both locks
  uint32_t left, right;              // tree of the class's slabs that have free blocks
  uint16_t free_blocks;
  uint16_t first_word;  // no word of `used` before this one has a zero bit
  uint64_t used[kMaxBlocksPerSlab / 64];
};
static_assert(sizeof(SlabRecord) == 528);

}  // namespace cr::nvheap
