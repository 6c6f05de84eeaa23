// SPDX-License-Identifier: MIT
// small_heap.h - blocks up to 16 KiB: each size class cuts 64 KiB slabs into blocks of one size.
// Invariant: which blocks are free is known only from the bitmaps in the Slab records, which lie
// outside the slabs. A slab belongs to one ThreadHeap; its bitmap is written by the thread that
// owns that heap only, without atomic read-modify-writes; others set bits in RemoteFrees and put
// the slab on the owner's stack. What was freed a moment ago is used again first, while it is in
// the processor's cache; else blocks are taken from one slab at a time, lowest first, then from the
// lowest slab of the class that has enough free ones.
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
  std::atomic<uint64_t>* word;  // of slab->free. Never null
  uint64_t address;             // of the block of the word's lowest bit
  Slab* slab;                   // null: `word` is one that is always zero
  uint64_t bytes;
};

// Blocks that were freed a moment ago, whose bytes are probably still in the processor's cache: a
// hint only, the bitmap decides whether they are (still) free.
struct Recent {
  static constexpr uint32_t kMost = 7;
  static constexpr uint32_t kKept = 4;  // when it is full
  struct Block {
    uint64_t address;
    uint64_t place;  // address of its Slab, shifted left by 9, and its number there
  };
  uint32_t key;    // of slabs of this heap and class
  uint32_t count;  // a stack
  uint64_t reserved;
  Block blocks[kMost];
};
static_assert(sizeof(Recent) == 128);
static_assert(kMaxBlocksPerSlab == 1 << 9);

// Runs of pages of one length, kept by the thread that freed them.
struct KeptRuns {
  static constexpr uint32_t kMost = 7;
  uint32_t count;
  uint32_t pages[kMost];  // first page of each
};
inline constexpr uint32_t kRunClasses = 17;
inline constexpr uint32_t kMostKeptPages = 64;  // of one run
inline constexpr uint32_t kKeptPages = 512;     // of all together: 2 MiB a thread

// 4 lengths per doubling, from 4 to 64 pages.
constexpr uint32_t run_class(uint32_t pages) {
  if (pages <= 8) return pages <= 4 ? 0 : pages - 4;
  const auto log2 = static_cast<uint32_t>(31 - __builtin_clz(pages - 1));
  return 4 + (log2 - 3) * 4 + ((pages - 1) >> (log2 - 2) & 3) + 1;
}
constexpr uint32_t pages_of_run_class(uint32_t c) {
  if (c <= 4) return c + 4;
  return (8u << (c - 5) / 4) + ((c - 5) % 4 + 1) * (2u << (c - 5) / 4);
}
static_assert(pages_of_run_class(kRunClasses - 1) == kMostKeptPages);
static_assert(run_class(kMostKeptPages) == kRunClasses - 1 && run_class(9) == 5);

enum class HeapState : uint32_t { kUnused = 0, kOwned, kAbandoned, kLost };

// One thread's heap. It outlives its thread and is taken over by a later one.
struct alignas(64) ThreadHeap {
  uint32_t id = 0;
  HeapState state = HeapState::kUnused;  // under heaps_lock_
  // Of the heap that all share, here because the fast paths then need nothing else.
  uint64_t data_address = 0;
  Slab* all_slabs = nullptr;
  RemoteFrees* all_remotes = nullptr;
  const std::atomic<uint32_t>* grown_pages = nullptr;
  uint32_t busy = 0;  // the owner is changing more than one word
  uint32_t next_abandoned = 0;
  std::atomic<uint32_t> remote_slabs{0};  // stack of 1 + chunk, linked by Slab::next_remote
  uint32_t slabs = 0, empty_slabs = 0;
  uint32_t remote_pushes = 0;
  std::atomic<uint32_t> kept_pages{0};
  Recent recent[kSizeClasses] = {};
  Cursor cursors[kSizeClasses] = {};
  uint32_t partial[kSizeClasses] = {};  // trees of slabs with free blocks, without the cursor's
  KeptRuns runs[kRunClasses] = {};

  constexpr ThreadHeap() = default;
  constexpr ThreadHeap(uint32_t heap_id, std::atomic<uint64_t>* zero_word,
                       const std::atomic<uint32_t>* zero_pages)
      : id(heap_id), grown_pages(zero_pages) {
    for (Cursor& k : cursors) k.word = zero_word;
    for (uint32_t& root : partial) root = kNil;
  }
};

inline constexpr uint32_t kMostThreadHeaps = 4096;
inline constexpr uint32_t kSharedHeap = 0;  // of threads without one of their own, under a lock
inline constexpr uint32_t kNoHeap = 0xffff;

// What a pointer into a chunk is.
enum class BlockState { kNoSlab, kLive, kFree, kInterior };

class SmallHeap {
 public:
  void set_up(ThreadHeap* heaps, uint32_t heap_count, Slab* slabs, RemoteFrees* remotes,
              PageHeap* pages);

  // allow_fast: the fast paths below may be used; else only what goes through this object.
  void set_fast(bool allow_fast) { fast_ = allow_fast; }

  // The fast paths: a block of the calling thread's heap, nothing to look for and no lock. They
  // know the heap by the thread, so they work (that is, fail) before there is one.
  // nullptr: take the long way.
  [[gnu::always_inline]] static void* allocate_recent(uint32_t size_class) {
    return take_last(*t_fast, size_class);
  }
  [[gnu::always_inline]] static void* allocate_next(uint32_t size_class) {
    return take_next(*t_fast, size_class);
  }
  // False: nothing was done, take the long way. Any pointer may be given.
  [[gnu::always_inline]] static bool release_fast(uint64_t address) {
    ThreadHeap& t = *t_fast;
    const uint64_t grown = t.grown_pages->load(std::memory_order_relaxed);
    if (address - t.data_address >= grown * kPageSize) return false;
    return put(t, address);
  }

  void* allocate(uint32_t size_class) {
    void* block = take_last(*t_heap, size_class);
    if (block == nullptr) block = take_next(*t_heap, size_class);
    return block != nullptr ? block : allocate_slowly(size_class);
  }
  // kLive: it was, and is free now. Else nothing was done. The chunk must be below grown_pages.
  BlockState release(uint64_t address);

  // *ret_bytes: the block's size; set only if kLive.
  BlockState look_up(uint64_t address, uint32_t* ret_bytes) const;

  // A run of pages that this thread has freed before; kNil: none of that length. The length must be
  // one of pages_of_run_class.
  uint32_t take_run(uint32_t pages);
  // False if it must be freed. The run is the calling thread's alone.
  bool keep_run(uint32_t page, uint32_t pages);
  // Of runs that threads keep.
  uint64_t kept_bytes() const;

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
  bool is_slab(uint32_t chunk) const { return slabs_[chunk].tag() != 0; }

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

  [[gnu::always_inline]] static void* take_last(ThreadHeap& t, uint32_t size_class) {
    Recent& r = t.recent[size_class];
    if (r.count == 0) return nullptr;
    const Recent::Block& b = r.blocks[--r.count];
    return take_recent(r.key, b.place) ? reinterpret_cast<void*>(b.address) : nullptr;
  }

  [[gnu::always_inline]] static void* take_next(ThreadHeap& t, uint32_t size_class) {
    Cursor& k = t.cursors[size_class];
    const uint64_t bits = k.word->load(std::memory_order_relaxed);
    return bits != 0 ? take_block(k, bits) : nullptr;
  }

  static void* take_block(Cursor& k, uint64_t bits) {
    k.word->store(bits & (bits - 1), std::memory_order_relaxed);
    k.slab->used.store(static_cast<uint16_t>(k.slab->used.load(std::memory_order_relaxed) + 1),
                       std::memory_order_relaxed);
    const auto bit = static_cast<uint64_t>(__builtin_ctzll(bits));
    return reinterpret_cast<void*>(k.address + bit * k.bytes);
  }

  // If the block is free and its slab has that key.
  [[gnu::always_inline]] static bool take_recent(uint32_t key, uint64_t place) {
    Slab& s = *reinterpret_cast<Slab*>(place >> 9);
    std::atomic<uint64_t>& word = s.free[place / 64 % kSlabWords];
    const uint64_t old = word.load(std::memory_order_relaxed);
    if (s.key.load(std::memory_order_relaxed) != key || (old >> place % 64 & 1) == 0) [[unlikely]]
      return false;
    word.store(old & ~(uint64_t{1} << place % 64), std::memory_order_relaxed);
    s.used.store(static_cast<uint16_t>(s.used.load(std::memory_order_relaxed) + 1),
                 std::memory_order_relaxed);
    return true;
  }

  // Frees a live block of a slab of t's. False if it is no such block, and nothing was done.
  // Without kRare it leaves to put_rarely what would need a call, so that it needs no stack frame.
  template <bool kRare = false>
  [[gnu::always_inline]] static bool put(ThreadHeap& t, uint64_t address) {
    const uint64_t offset = address - t.data_address;
    Slab& s = t.all_slabs[offset / kChunkBytes];
    const uint32_t key = s.key.load(std::memory_order_relaxed);
    if (key >> 8 != t.id) [[unlikely]]  // 0, of what is no slab, is the shared heap's
      return false;
    const auto inside = static_cast<uint32_t>(offset % kChunkBytes);
    const uint64_t block = uint64_t{inside} * s.reciprocal >> 32;
    if (static_cast<uint32_t>(block) * s.bytes != inside || block >= s.blocks) [[unlikely]]
      return false;
    std::atomic<uint64_t>& word = s.free[block / 64];
    const uint64_t old = word.load(std::memory_order_relaxed);
    if ((old >> block % 64 & 1) != 0) [[unlikely]]
      return false;
    // Not by the class: the next call waits for what is stored here, this is the shorter way.
    Recent& r = *reinterpret_cast<Recent*>(reinterpret_cast<char*>(&t) + s.recent);
    const bool remote = s.next_remote.load(std::memory_order_relaxed) != 0;
    if constexpr (kRare) {
      if (remote && remote_bit(t, s, block)) return false;
      if (r.count == Recent::kMost) forget_oldest(r);
    } else if (remote || r.count == Recent::kMost) [[unlikely]] {
      return put_rarely(t, address);
    }
    word.store(old | uint64_t{1} << block % 64, std::memory_order_relaxed);
    const auto used = static_cast<uint16_t>(s.used.load(std::memory_order_relaxed) - 1);
    s.used.store(used, std::memory_order_relaxed);
    r.blocks[r.count++] = {address, reinterpret_cast<uint64_t>(&s) << 9 | block};
    if (used == s.wake) [[unlikely]]
      return free_slowly(t, s);
    return true;
  }
  [[gnu::noinline]] static bool put_rarely(ThreadHeap& t, uint64_t address);
  static bool remote_bit(const ThreadHeap& t, const Slab& s, uint64_t block) {
    const RemoteFrees& r = t.all_remotes[&s - t.all_slabs];
    return (r.bits[block / 64].load(std::memory_order_relaxed) >> block % 64 & 1) != 0;
  }
  static void forget_oldest(Recent& r) {
    for (uint32_t i = 0; i < Recent::kKept; i++) {
      r.blocks[i] = r.blocks[i + Recent::kMost - Recent::kKept];
    }
    r.count = Recent::kKept;
  }

  void move_cursor(Cursor& k, uint32_t word) const {
    k.word = &k.slab->free[word];
    k.address = address_of(chunk_of(*k.slab)) + word * 64 * k.bytes;
  }
  uint32_t chunk_of(const Slab& s) const { return static_cast<uint32_t>(&s - slabs_); }
  uint64_t address_of(uint32_t chunk) const { return data_address_ + chunk * kChunkBytes; }
  BlockState locate(uint64_t address, uint32_t* ret_chunk, uint32_t* ret_block) const;
  [[gnu::noinline]] void* allocate_slowly(uint32_t size_class);
  void* find_block(ThreadHeap& t, uint32_t size_class);
  bool advance(Cursor& k, uint32_t from_word) const;
  void begin(ThreadHeap& t, uint32_t size_class, uint32_t chunk);
  void retire(ThreadHeap& t, uint32_t size_class);
  [[gnu::noinline]] static bool free_slowly(ThreadHeap& t, Slab& s);  // true
  [[gnu::noinline]] BlockState release_remotely(Slab& s, uint32_t block);
  void push_remote(uint32_t chunk);
  bool merge_remote(Slab& s);
  void drain(ThreadHeap& t);
  void list(ThreadHeap& t, Slab& s);
  void unlist(ThreadHeap& t, Slab& s);
  void settle(ThreadHeap& t, Slab& s, bool keep_empty);
  void give_back(ThreadHeap& t, Slab& s);
  void give_back_empty(ThreadHeap& t);
  void give_back_runs(ThreadHeap& t);
  uint32_t add_slab(ThreadHeap& t, uint32_t size_class);
  uint32_t adopt(ThreadHeap& t, uint32_t size_class);
  ThreadHeap* attach();
  void reset(ThreadHeap& t, uint32_t id) const;
  void abandon(ThreadHeap& t);

  // Threads that have no heap (yet) have this one, whose words are all zero.
  static ThreadHeap g_none;
  static constinit thread_local ThreadHeap* t_heap;
  static constinit thread_local ThreadHeap* t_fast;  // t_heap, or g_none if not fast_
  static constinit thread_local bool t_left;

  void set_own(ThreadHeap* t) const {
    t_heap = t;
    t_fast = fast_ ? t : &g_none;
  }

  Slab* slabs_ = nullptr;
  RemoteFrees* remotes_ = nullptr;
  PageHeap* pages_ = nullptr;
  ThreadHeap* heaps_ = nullptr;
  uint32_t heap_count_ = 0;
  bool fast_ = true;
  uint64_t data_address_ = 0;
  HeapLock heaps_lock_, shared_lock_;
  uint32_t heaps_made_ = 1;  // ids below were used; 0 is the shared one
  uint32_t abandoned_ = kNil;
  std::atomic<uint32_t> abandoned_count_{0};
};

}  // namespace cr::nvheap
