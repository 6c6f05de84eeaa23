// SPDX-License-Identifier: MIT
// nvheap.h - the heap whose blocks keep their addresses over a restore.
// Invariant: blocks and all allocator metadata, locks included, lie inside one reserved range at a
// fixed address, so a checkpoint of the range's pages is a checkpoint of the allocator; no word is
// ever written into a free block.
// Context: N. Functions return nullptr on failure and leave errno alone; src/api sets it.
// Doc: docs/ARCHITECTURE.md, "nvheap".
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/base.h"

namespace cr::nvheap {

inline constexpr uint64_t kDefaultReserveBytes = uint64_t{1} << 40;
inline constexpr uint64_t kMinReserveBytes = uint64_t{64} << 20;

// Reserve the range; the first call decides, later ones do nothing and succeed. reserve_bytes: 0
// for the default (and then never more than half of a finite RLIMIT_AS, so that the program keeps
// the rest); halved until it fits, down to kMinReserveBytes. The first allocation calls init(0).
// Errors: kNoMemory, not even kMinReserveBytes fit; nothing was changed.
Result<void> init(uint64_t reserve_bytes);

// Blocks are aligned to 16 bytes. nullptr: too large for the reserve, or the system has no memory.
void* allocate(size_t bytes);
void* allocate_zeroed(size_t count, size_t bytes_each);
// align_bytes: a power of two, at most the reserve.
void* allocate_aligned(size_t bytes, size_t align_bytes);
// As realloc of glibc: (nullptr, n) allocates, (block, 0) frees and returns nullptr; on failure the
// block is as it was.
void* reallocate(void* block, size_t bytes);

// `call` is the name of the public call, for the message: a block that is not live (freed twice,
// foreign, interior) ends the program with one line naming both.
void deallocate(void* block, const char* call = "crfree");
size_t usable_bytes(const void* block, const char* call = "crmalloc_usable_size");

// Does the address lie in the reserved range (block or not)? False before init.
bool contains(const void* address);

// A page-aligned run of at least `bytes`, for a thread's stack; its pages may hold old data.
// free_stack takes what alloc_stack returned, with all its pages readable and writable again.
void* alloc_stack(size_t bytes);
void free_stack(void* stack);

// Both 0 before init. Async-signal-safe; momentary values, each exact when no call is under way.
void stats(uint64_t* ret_in_use_bytes, uint64_t* ret_reserve_bytes);

// Where the parts of the range are; all 0 before init. What lies at and above data_end has never
// been used.
struct RangeInfo {
  uint64_t begin, end;            // the whole reserve
  uint64_t data_begin, data_end;  // blocks; data_end grows
};
RangeInfo range_info();

}  // namespace cr::nvheap
