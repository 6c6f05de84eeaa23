// SPDX-License-Identifier: MIT
// small_heap.h - blocks up to 16 KiB: each size class cuts 64 KiB slabs into blocks of one size.
// Invariant: which blocks are free is known only from the bitmaps in the Slab records, which lie
// outside the slabs. A slab belongs to one ThreadHeap; its bitmap is written by the thread that
// owns that heap only, without atomic read-modify-writes; others set bits in RemoteFrees and put
// the slab on the owner's stack. Blocks are taken from one slab at a time, lowest first, then from
// the lowest slab of the class that has enough free ones.
// Context: N. Thread-safe. Lock order: heaps_lock_ or shared_lock_, then PageHeap's.
// Doc: docs/ARCHITECTURE.md, "nvheap".
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "nvheap/futex_lock.h"
#include "nvheap/page_heap.h"
#include "nvheap/size_class.h"

namespace cr::nvheap {

// Where the next block of a class comes from.
struct Cursor {
  std::atomic<uint64_t>* word;  // of slab->free; all words before it are zero. Never null
  uint64_t address;             // of the block of the word's lowest bit
  Slab* slab;                   // null: `word` is one that is always zero
  uint64_t bytes;
};

enum class HeapState : uint32_t { kUnused = 0, kOwned, kAbandoned, kLost };

// One thread's heap. It outlives its thread and is taken over by a later one.
struct alignas(64) ThreadHeap {
  uint32_t id = 0;
  HeapState state = HeapState::kUnused;  // under heaps_lock_
  uint32_t busy = 0;                     // the owner is changing more than one word
  uint32_t next_abandoned = 0;
  std::atomic<uint32_t> remote_slabs{0};  // stack of 1 + chunk, linked by Slab::next_remote
  uint32_t slabs = 0, empty_slabs = 0;
  uint32_t remote_pushes = 0;
  Cursor cursors[kSizeClasses] = {};
  uint32_t partial[kSizeClasses] = {};  // trees of slabs with free blocks, without the cursor's

  constexpr ThreadHeap() = default;
  constexpr ThreadHeap(uint32_t heap_id, std::atomic<uint64_t>* zero_word) : id(heap_id) {
    for (Cursor& k : cursors) k.word = zero_word;
    for (uint32_t& root : partial) root = kNil;
  }
};

inline constexpr uint32_t kThreadHeaps = 4096;
inline constexpr uint32_t kSharedHeap = 0;  // of threads without one of their own, under a lock
inline constexpr uint32_t kNoHeap = 0xffff;

// What a pointer into a chunk is.
enum class BlockState { kNoSlab, kLive, kFree, kInterior };

class SmallHeap {
 public:
  void set_up(ThreadHeap* heaps, Slab* slabs, RemoteFrees* remotes, PageHeap* pages);

  void* allocate(uint32_t size_class) {
    Cursor& k = t_heap->cursors[size_class];
    const uint64_t bits = k.word->load(std::memory_order_relaxed);
    if (bits == 0) [[unlikely]]
      return allocate_slowly(size_class);
    return take_block(k, bits);
  }

  // kLive: it was, and is free now. Else nothing was done. The chunk must be below grown_pages.
  BlockState release(uint64_t address) {
    const uint64_t offset = address - data_address_;
    const uint64_t chunk = offset / kChunkBytes;
    Slab& s = slabs_[chunk];
    const uint8_t tag = s.tag.load(std::memory_order_relaxed);
    if (tag == 0) return BlockState::kNoSlab;
    const ClassInfo& c = kClasses[tag - 1];
    const uint64_t inside = offset % kChunkBytes;
    const auto block = static_cast<uint32_t>(inside * c.reciprocal >> 32);
    if (block * uint64_t{c.bytes} != inside || block >= c.blocks) [[unlikely]]
      return BlockState::kInterior;
    std::atomic<uint64_t>& word = s.free[block / 64];
    const uint64_t bit = uint64_t{1} << (block % 64);
    const uint64_t old = word.load(std::memory_order_relaxed);
    if ((old & bit) != 0) [[unlikely]]
      return BlockState::kFree;
    ThreadHeap* t = t_heap;
    if (s.owner.load(std::memory_order_relaxed) != t->id) return release_remotely(s, block);
    if (remote_bits_seen(s, block)) [[unlikely]]
      return BlockState::kFree;
    word.store(old | bit, std::memory_order_relaxed);
    const auto used = static_cast<uint16_t>(s.used.load(std::memory_order_relaxed) - 1);
    s.used.store(used, std::memory_order_relaxed);
    Cursor& k = t->cursors[tag - 1];
    if (k.slab == &s) {
      if (&word < k.word) move_cursor(k, block / 64);
    } else if (used == s.wake) [[unlikely]] {
      free_slowly(*t, s);
    }
    return BlockState::kLive;
  }

  // *ret_bytes: the block's size; set only if kLive.
  BlockState look_up(uint64_t address, uint32_t* ret_bytes) const;

  uint64_t used_bytes() const;
  // Gives slabs without used blocks back to the page heap: the calling thread's and those of
  // threads that have ended.
  void trim();

  // A word about the first broken invariant; nullptr if all hold. Only while no call is under way.
  const char* check() const;

  // For each live block, in the order of addresses, until the function returns false.
  // Only while no other thread changes the heap.
  bool walk_slab(uint32_t chunk, bool (*each)(void* context, uint64_t address, uint64_t bytes),
                 void* context) const;
  bool is_slab(uint32_t chunk) const {
    return slabs_[chunk].tag.load(std::memory_order_relaxed) != 0;
  }

  void lock_for_fork();
  void unlock_in_parent();
  // The calling thread is the only one left, or (keep_own false) a new one: the heaps of all others
  // are free to be taken over, except those that were being changed.
  void recover(bool keep_own);

  // The calling thread ends; what it still allocates comes from the shared heap.
  static void leave_thread();

 private:
  struct SlabTree {
    Slab* slabs;
    uint32_t& left(uint32_t i) const { return slabs[i].left; }
    uint32_t& right(uint32_t i) const { return slabs[i].right; }
    void update(uint32_t) const {}
  };

  static void* take_block(Cursor& k, uint64_t bits) {
    k.word->store(bits & (bits - 1), std::memory_order_relaxed);
    k.slab->used.store(static_cast<uint16_t>(k.slab->used.load(std::memory_order_relaxed) + 1),
                       std::memory_order_relaxed);
    const auto bit = static_cast<uint64_t>(__builtin_ctzll(bits));
    return reinterpret_cast<void*>(k.address + bit * k.bytes);
  }
  void move_cursor(Cursor& k, uint32_t word) const {
    k.word = &k.slab->free[word];
    k.address = address_of(chunk_of(*k.slab)) + word * 64 * k.bytes;
  }
  uint32_t chunk_of(const Slab& s) const { return static_cast<uint32_t>(&s - slabs_); }
  uint64_t address_of(uint32_t chunk) const { return data_address_ + chunk * kChunkBytes; }
  bool remote_bits_seen(const Slab& s, uint32_t block) const {
    // Only a slab on the stack can have any; else its line is not touched.
    return s.next_remote.load(std::memory_order_relaxed) != 0 &&
           (remotes_[&s - slabs_].bits[block / 64].load(std::memory_order_relaxed) >> (block % 64) &
            1) != 0;
  }

  void* allocate_slowly(uint32_t size_class);
  void* find_block(ThreadHeap& t, uint32_t size_class);
  bool advance(Cursor& k, uint32_t from_word) const;
  void begin(ThreadHeap& t, uint32_t size_class, uint32_t chunk);
  void retire(ThreadHeap& t, uint32_t size_class);
  void free_slowly(ThreadHeap& t, Slab& s);
  BlockState release_remotely(Slab& s, uint32_t block);
  void push_remote(uint32_t chunk);
  bool merge_remote(Slab& s);
  void drain(ThreadHeap& t);
  void list(ThreadHeap& t, Slab& s);
  void unlist(ThreadHeap& t, Slab& s);
  void settle(ThreadHeap& t, Slab& s, bool keep_empty);
  void give_back(ThreadHeap& t, Slab& s);
  void give_back_empty(ThreadHeap& t);
  uint32_t add_slab(ThreadHeap& t, uint32_t size_class);
  uint32_t adopt(ThreadHeap& t, uint32_t size_class);
  ThreadHeap* attach();
  void reset(ThreadHeap& t, uint32_t id) const;
  void abandon(ThreadHeap& t);

  // Threads that have no heap (yet) have this one, whose words are all zero.
  static ThreadHeap g_none;
  static thread_local ThreadHeap* t_heap;
  static thread_local bool t_left;

  Slab* slabs_ = nullptr;
  RemoteFrees* remotes_ = nullptr;
  PageHeap* pages_ = nullptr;
  ThreadHeap* heaps_ = nullptr;
  uint64_t data_address_ = 0;
  FutexLock heaps_lock_, shared_lock_;
  uint32_t heaps_made_ = 1;  // ids below were used; 0 is the shared one
  uint32_t abandoned_ = kNil;
  std::atomic<uint32_t> abandoned_count_{0};
};

}  // namespace cr::nvheap
