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

// Before init: where the search for a place begins, in steps of 1 TiB from kPreferredBase. The heap
// of malloc begins elsewhere, so that the places of crmalloc are free for heaps that are opened.
void set_first_step(uint32_t step);

// Blocks are aligned to 16 bytes. nullptr: too large for the reserve, or the system has no memory.
void* allocate(size_t bytes);
void* allocate_zeroed(size_t count, size_t bytes_each);
// align_bytes: a power of two, at most the reserve.
void* allocate_aligned(size_t bytes, size_t align_bytes);
// As realloc of glibc: (nullptr, n) allocates, (block, 0) frees and returns nullptr; on failure the
// block is as it was.
void* reallocate(void* block, size_t bytes, const char* call = "crrealloc");

// `call` is the name of the public call, for the message: a block that is not live (freed twice,
// foreign, interior) ends the program with one line naming both.
void deallocate(void* block, const char* call = "crfree");
size_t usable_bytes(const void* block, const char* call = "crmalloc_usable_size");

// Gives memory without live blocks back to the system, all but keep_bytes of it. Returns the bytes
// given back by this call.
uint64_t trim(uint64_t keep_bytes);

// Does the address lie in the reserved range (block or not)? False before init.
bool contains(const void* address);

// A page-aligned run of at least `bytes`, for a thread's stack; its pages may hold old data.
// free_stack takes what alloc_stack returned, with all its pages readable and writable again.
void* alloc_stack(size_t bytes);
void free_stack(void* stack);

// Both 0 before init. Async-signal-safe; momentary values, each exact when no call is under way.
void stats(uint64_t* ret_in_use_bytes, uint64_t* ret_reserve_bytes);

struct Stats {
  uint64_t reserve_bytes;     // address space
  uint64_t grown_bytes;       // of it, used so far
  uint64_t small_bytes;       // live blocks up to 16 KiB, rounded up to their classes
  uint64_t slab_bytes;        // the slabs they lie in
  uint64_t large_bytes;       // live larger blocks and stacks
  uint64_t free_bytes;        // runs of pages without blocks
  uint64_t free_dirty_bytes;  // of these, not given back to the system
};
// Momentary values.
Stats all_stats();

// Calls each(context, block, usable bytes) for each live block, lowest address first, until it
// returns false. Only while no other thread uses the heap; `each` must not use it either.
void walk(bool (*each)(void* context, void* block, size_t bytes), void* context);

// For tests: the first broken invariant in words, nullptr if all hold. As walk.
const char* check();

// A heap that another program left, whose pages have been put back at their place: `base` is where
// its directory lies. Its threads are gone; blocks that one of them was just then handing out or
// taking back stay allocated. Errors: kAlready (there is a heap), kDamaged, kTooNew.
Result<void> open_at(uint64_t base);

// Between these two no other thread is inside the heap, so that a copy of it is whole. The calling
// thread must not use it meanwhile.
void lock_all();
void unlock_all();

// Names by which a later program finds its data. kRootNameBytes includes the terminating 0.
// Errors: kInvalid (name too long or empty, not an address in the heap), kNoMemory (256 roots, or
// no heap). A null address removes the name: kNotFound if there is none.
inline constexpr size_t kRootNameBytes = 56;
Errc set_root(const char* name, void* address);
void* get_root(const char* name);  // nullptr: none of that name
// Fills in the first `most`; returns how many there are. The names belong to the heap.
uint32_t list_roots(const char* ret_names[], void* ret_addresses[], uint32_t most);

// Address of the word that holds the address of the HeapDirectory (heap_layout.h), 0 before init.
const void* directory_word();

// Where the parts of the range are; all 0 before init. What lies at and above data_end has never
// been used.
struct RangeInfo {
  uint64_t begin, end;            // the whole reserve
  uint64_t data_begin, data_end;  // blocks; data_end grows
};
RangeInfo range_info();

}  // namespace cr::nvheap
