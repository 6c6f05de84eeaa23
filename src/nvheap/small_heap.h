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

#include <array>
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

// Blocks that were freed a moment ago, whose bytes are probably still in the processor's cache.
// They are free in their bitmaps, and nobody takes them there: whoever allocates empties this stack
// before. In Slab::used they still count, so the slab of one is neither listed as empty nor given
// back, and neither count nor key need be looked at when it is handed out again.
struct Recent {
  static constexpr uint32_t kMost = 10;
  struct Block {
    uint64_t address;
    std::atomic<uint64_t>* word;  // of its slab's bitmap
    uint64_t mask;                // its bit there
  };
  uint32_t end;   // in bytes from the first block, so that nothing is left to be multiplied
  uint32_t most;  // as `end`: when this is reached, the older half is forgotten
  uint64_t reserved;
  Block blocks[kMost];

  Block& at(uint32_t offset) {
    return *reinterpret_cast<Block*>(reinterpret_cast<char*>(blocks) + offset);
  }
};
static_assert(sizeof(Recent) == 256);
// Few large blocks, because they may be all that is left in their slabs.
constexpr uint32_t most_recent(uint32_t size_class) {
  const uint32_t eighth = blocks_of_class(size_class) / 8;
  return eighth < 4 ? 4 : eighth < Recent::kMost ? eighth : Recent::kMost;
}

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
  uint64_t data_bytes = 0;  // all slabs of this heap lie within so many
  uint32_t busy = 0;        // the owner is changing more than one word
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
  constexpr ThreadHeap(uint32_t heap_id, std::atomic<uint64_t>* zero_word) : id(heap_id) {
    for (Cursor& k : cursors) k.word = zero_word;
    for (uint32_t& root : partial) root = kNil;
  }
};

// For sizes in steps of 16 bytes: where in a ThreadHeap the Recent of their class lies.
inline constexpr auto kRecentTable = [] {
  std::array<uint16_t, kMaxSmallBytes / 16 + 1> table{};
  for (size_t i = 0; i < table.size(); i++) {
    table[i] =
        static_cast<uint16_t>(offsetof(ThreadHeap, recent) + kClassTable[i] * sizeof(Recent));
  }
  return table;
}();
static_assert(sizeof(ThreadHeap) <= UINT16_MAX);

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
  // nullptr: take the long way. bytes <= kMaxSmallBytes
  [[gnu::always_inline]] static void* allocate_recent(size_t bytes) {
    return take_last(recent_at(*t_fast, kRecentTable[(bytes + 15) / 16]));
  }
  [[gnu::always_inline]] static void* allocate_next(uint32_t size_class) {
    return take_next(*t_fast, size_class);
  }
  // False: nothing was done, take the long way. Any pointer may be given.
  [[gnu::always_inline]] static bool release_fast(uint64_t address) {
    ThreadHeap& t = *t_fast;
    return address - t.data_address < t.data_bytes && put<false>(t, address);
  }

  void* allocate(uint32_t size_class) {
    void* block = take_last(t_heap->recent[size_class]);
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

  static Recent& recent_at(ThreadHeap& t, uint32_t offset) {
    return *reinterpret_cast<Recent*>(reinterpret_cast<char*>(&t) + offset);
  }

  [[gnu::always_inline]] static void* take_last(Recent& r) {
    if (r.end == 0) return nullptr;
    const uint32_t end = r.end - static_cast<uint32_t>(sizeof(Recent::Block));
    const Recent::Block& b = r.at(end);
    r.end = end;
    b.word->store(b.word->load(std::memory_order_relaxed) ^ b.mask, std::memory_order_relaxed);
    if (b.address == 0) __builtin_unreachable();
    return reinterpret_cast<void*>(b.address);
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

  // Frees a live block of a slab of t's. False if it is no such block, and nothing was done;
  // without kAll also if more is to be done than should be inlined.
  template <bool kAll>
  [[gnu::always_inline]] static bool put(ThreadHeap& t, uint64_t address) {
    const uint64_t offset = address - t.data_address;
    Slab& s = t.all_slabs[offset / kChunkBytes];
    if (s.key.load(std::memory_order_relaxed) >> 8 != t.id) [[unlikely]]
      return false;  // 0, of what is no slab, is the shared heap's
    // In the product the number of the block comes before the point, and behind it less than the
    // reciprocal if the address is its first byte.
    const uint64_t product = offset % kChunkBytes * s.reciprocal;
    const uint64_t block = product >> 32;
    if (static_cast<uint32_t>(product) >= s.reciprocal || block >= s.blocks) [[unlikely]]
      return false;
    std::atomic<uint64_t>& word = s.free[block / 64];
    const uint64_t old = word.load(std::memory_order_relaxed);
    const uint64_t mask = uint64_t{1} << block % 64;
    if ((old & mask) != 0) [[unlikely]]
      return false;
    const bool remote = s.next_remote.load(std::memory_order_relaxed) != 0;
    if (remote && (!kAll || remote_bit(t, s, block))) [[unlikely]]
      return false;
    // Not by the class: the next call waits for what is stored here, this is the shorter way.
    Recent& r = recent_at(t, s.recent);
    uint32_t end = r.end;
    if (end == r.most) [[unlikely]] {
      if constexpr (!kAll) return false;
      forget_oldest(t, r);
      end = r.end;
    }
    word.store(old | mask, std::memory_order_relaxed);
    Recent::Block& b = r.at(end);
    b.address = address;
    b.word = &word;
    b.mask = mask;
    // A child of fork may find any state that this thread can be in, but no half an entry.
    std::atomic_signal_fence(std::memory_order_release);
    r.end = end + static_cast<uint32_t>(sizeof(b));
    return true;
  }
  static bool remote_bit(const ThreadHeap& t, const Slab& s, uint64_t block) {
    const RemoteFrees& r = t.all_remotes[&s - t.all_slabs];
    return (r.bits[block / 64].load(std::memory_order_relaxed) >> block % 64 & 1) != 0;
  }

  void move_cursor(Cursor& k, uint32_t word) const {
    k.word = &k.slab->free[word];
    k.address = address_of(chunk_of(*k.slab)) + word * 64 * k.bytes;
  }
  uint32_t chunk_of(const Slab& s) const { return static_cast<uint32_t>(&s - slabs_); }
  uint64_t address_of(uint32_t chunk) const { return data_address_ + chunk * kChunkBytes; }
  uint32_t recent_of(const Slab& s) const;
  BlockState locate(uint64_t address, uint32_t* ret_chunk, uint32_t* ret_block) const;
  [[gnu::noinline]] void* allocate_slowly(uint32_t size_class);
  void* find_block(ThreadHeap& t, uint32_t size_class);
  bool advance(Cursor& k, uint32_t from_word) const;
  void begin(ThreadHeap& t, uint32_t size_class, uint32_t chunk);
  void retire(ThreadHeap& t, uint32_t size_class);
  [[gnu::noinline]] static void forget_oldest(ThreadHeap& t, Recent& r);
  void forget(ThreadHeap& t, Recent& r, uint32_t count);
  void forget_all(ThreadHeap& t);
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
