// SPDX-License-Identifier: MIT
// small_heap.cc - the slow paths of small blocks.
// Invariant: as small_heap.h. A slab is in one of three states of its owner's: the cursor's (wake
// never), listed in the tree of its class (wake 0), or full enough to be left alone (wake: so few
// used blocks that it is worth listing). A slab on a remote stack is never given back.
// Context: N.
#include "nvheap/small_heap.h"

#include <pthread.h>

#include "nvheap/treap.h"

namespace cr::nvheap {
namespace {

constexpr uint16_t kNever = 0xffff;
// A thread keeps so many slabs without used blocks, and a 32nd of all of its own.
constexpr uint32_t kSpareSlabs = 1;
constexpr uint32_t kNotQueued = 0, kClaimed = kNil - 1, kEndOfStack = kNil;

constinit std::atomic<uint64_t> g_zero_word{0};
constinit std::atomic<uint32_t> g_key_made{0};
constinit pthread_key_t g_key = 0;

void thread_ends(void*) { SmallHeap::leave_thread(); }

// Early, so that even threads made by other constructors have it.
__attribute__((constructor(101))) void make_key() {
  if (pthread_key_create(&g_key, thread_ends) == 0) g_key_made.store(1);
}

class Busy {
 public:
  explicit Busy(ThreadHeap& t) : t_(t) {
    t_.busy++;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  ~Busy() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    t_.busy--;
  }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  ThreadHeap& t_;
};

uint32_t words_of(const Slab& s) { return (s.blocks + 63u) / 64; }

constinit SmallHeap* g_small = nullptr;  // for the end of a thread

}  // namespace

constinit ThreadHeap SmallHeap::g_none(kNoHeap, &g_zero_word);
constinit thread_local ThreadHeap* SmallHeap::t_heap = &SmallHeap::g_none;
constinit thread_local ThreadHeap* SmallHeap::t_fast = &SmallHeap::g_none;
constinit thread_local bool SmallHeap::t_left = false;

void SmallHeap::set_up(ThreadHeap* heaps, uint32_t heap_count, Slab* slabs, RemoteFrees* remotes,
                       PageHeap* pages) {
  heaps_ = heaps;
  heap_count_ = heap_count;
  slabs_ = slabs;
  remotes_ = remotes;
  pages_ = pages;
  data_address_ = pages->data_address();
  reset(heaps_[kSharedHeap], kSharedHeap);
  heaps_[kSharedHeap].state = HeapState::kOwned;
  g_small = this;
}

void SmallHeap::reset(ThreadHeap& t, uint32_t id) const {
  t.id = id;
  t.data_address = data_address_;
  t.all_slabs = slabs_;
  t.all_remotes = remotes_;
  t.data_bytes = pages_->grown_pages() * kPageSize;
  t.remote_slabs.store(kEndOfStack, std::memory_order_relaxed);
  for (uint32_t c = 0; c < kSizeClasses; c++) {
    t.cursors[c] = {&g_zero_word, 0, nullptr, bytes_of_class(c)};
    t.partial[c] = kNil;
    t.recent[c].end = 0;
    t.recent[c].most = most_recent(c) * static_cast<uint32_t>(sizeof(Recent::Block));
  }
}

// ---- allocation ---------------------------------------------------------------------------------

void* SmallHeap::allocate_slowly(uint32_t size_class) {
  ThreadHeap* t = t_heap;
  if (t == &g_none) {
    t = t_left ? nullptr : attach();
    if (t == nullptr) {
      LockGuard guard(shared_lock_);
      return find_block(heaps_[kSharedHeap], size_class);
    }
  }
  return find_block(*t, size_class);
}

void* SmallHeap::find_block(ThreadHeap& t, uint32_t size_class) {
  Busy busy(t);
  Cursor& k = t.cursors[size_class];
  for (;;) {
    const uint64_t bits = k.word->load(std::memory_order_relaxed);
    if (bits != 0) return take_block(k, bits);
    if (k.slab != nullptr) {
      const auto word = static_cast<uint32_t>(k.word - k.slab->free);
      if (advance(k, word + 1)) continue;
      (void)merge_remote(*k.slab);
      // What was freed behind the cursor, if it is worth another walk.
      if (k.slab->used.load(std::memory_order_relaxed) + kClasses[size_class].spare_blocks <=
              k.slab->blocks &&
          advance(k, 0)) {
        continue;
      }
      retire(t, size_class);
    }
    drain(t);
    uint32_t chunk = Treap(SlabTree{slabs_}).lowest(t.partial[size_class]);
    if (chunk == kNil) chunk = adopt(t, size_class);
    if (chunk == kNil) chunk = add_slab(t, size_class);
    if (chunk == kNil) return nullptr;
    begin(t, size_class, chunk);
  }
}

// Moves the cursor to the first word with a free block at or after `from_word`.
bool SmallHeap::advance(Cursor& k, uint32_t from_word) const {
  for (uint32_t w = from_word; w < words_of(*k.slab); w++) {
    if (k.slab->free[w].load(std::memory_order_relaxed) == 0) continue;
    move_cursor(k, w);
    return true;
  }
  return false;
}

void SmallHeap::begin(ThreadHeap& t, uint32_t size_class, uint32_t chunk) {
  Slab& s = slabs_[chunk];
  if (s.listed != 0) unlist(t, s);
  s.wake = kNever;
  t.data_bytes = pages_->grown_pages() * kPageSize;
  Cursor& k = t.cursors[size_class];
  k.slab = &s;
  if (!advance(k, 0)) retire(t, size_class);
}

// The cursor leaves its slab.
void SmallHeap::retire(ThreadHeap& t, uint32_t size_class) {
  Cursor& k = t.cursors[size_class];
  Slab& s = *k.slab;
  k = {&g_zero_word, 0, nullptr, k.bytes};
  settle(t, s, true);
}

uint32_t SmallHeap::add_slab(ThreadHeap& t, uint32_t size_class) {
  const uint32_t page = pages_->allocate(kPagesPerChunk, kPagesPerChunk, RunKind::kSlab);
  if (page == kNil) return kNil;
  const uint32_t chunk = page / kPagesPerChunk;
  Slab& s = slabs_[chunk];
  s.listed = 0;
  s.blocks = static_cast<uint16_t>(kClasses[size_class].blocks);
  s.bytes = static_cast<uint16_t>(kClasses[size_class].bytes);
  s.recent = static_cast<uint16_t>(offsetof(ThreadHeap, recent) + size_class * sizeof(Recent));
  s.reciprocal = kClasses[size_class].reciprocal;
  s.used.store(0, std::memory_order_relaxed);
  s.wake = kNever;
  for (uint32_t w = 0; w < kSlabWords; w++) {
    const uint32_t first = w * 64;
    const uint32_t here = s.blocks > first ? s.blocks - first : 0;
    s.free[w].store(here >= 64 ? ~uint64_t{0} : (uint64_t{1} << here) - 1,
                    std::memory_order_relaxed);
  }
  s.key.store(slab_key(size_class, t.id), std::memory_order_release);
  t.slabs++;
  return chunk;
}

// ---- freeing ------------------------------------------------------------------------------------

// Which block begins there. kLive: it is one, and its own thread has not freed it.
BlockState SmallHeap::locate(uint64_t address, uint32_t* ret_chunk, uint32_t* ret_block) const {
  const uint64_t offset = address - data_address_;
  *ret_chunk = static_cast<uint32_t>(offset / kChunkBytes);
  const Slab& s = slabs_[*ret_chunk];
  const uint32_t tag = s.tag();
  if (tag == 0) return BlockState::kNoSlab;
  const ClassInfo& c = kClasses[tag - 1];
  const uint64_t inside = offset % kChunkBytes;
  *ret_block = static_cast<uint32_t>(inside * c.reciprocal >> 32);
  if (*ret_block * uint64_t{c.bytes} != inside || *ret_block >= c.blocks) {
    return BlockState::kInterior;
  }
  const uint64_t free = s.free[*ret_block / 64].load(std::memory_order_relaxed);
  return (free >> (*ret_block % 64) & 1) != 0 ? BlockState::kFree : BlockState::kLive;
}

BlockState SmallHeap::release(uint64_t address) {
  if (t_heap != &g_none && put<true>(*t_heap, address)) return BlockState::kLive;
  uint32_t chunk, block;
  const BlockState state = locate(address, &chunk, &block);
  return state == BlockState::kLive ? release_remotely(slabs_[chunk], block) : state;
}

void SmallHeap::forget_oldest(ThreadHeap& t, Recent& r) {
  g_small->forget(t, r, r.end / static_cast<uint32_t>(sizeof(Recent::Block)) / 2);
}

// The oldest `count` are free like any others from now on.
void SmallHeap::forget(ThreadHeap& t, Recent& r, uint32_t count) {
  if (count == 0) return;
  Busy busy(t);
  for (uint32_t i = 0; i < count; i++) {
    const auto offset =
        reinterpret_cast<uint64_t>(r.blocks[i].word) - reinterpret_cast<uint64_t>(slabs_);
    Slab& s = slabs_[offset / sizeof(Slab)];
    const auto used = static_cast<uint16_t>(s.used.load(std::memory_order_relaxed) - 1);
    s.used.store(used, std::memory_order_relaxed);
    if (used == s.wake) settle(t, s, true);
  }
  r.end -= count * static_cast<uint32_t>(sizeof(Recent::Block));
  for (uint32_t i = 0; i * sizeof(Recent::Block) < r.end; i++) r.blocks[i] = r.blocks[i + count];
}

void SmallHeap::forget_all(ThreadHeap& t) {
  for (Recent& r : t.recent) {
    forget(t, r, r.end / static_cast<uint32_t>(sizeof(Recent::Block)));
  }
}

void SmallHeap::list(ThreadHeap& t, Slab& s) {
  uint32_t& root = t.partial[s.tag() - 1];
  root = Treap(SlabTree{slabs_}).insert(root, chunk_of(s));
  s.listed = 1;
}

void SmallHeap::unlist(ThreadHeap& t, Slab& s) {
  uint32_t& root = t.partial[s.tag() - 1];
  root = Treap(SlabTree{slabs_}).erase(root, chunk_of(s));
  s.listed = 0;
  const uint32_t key = s.key.load(std::memory_order_relaxed);
  if ((key & kEmptySlab) == 0) return;
  s.key.store(key & ~kEmptySlab, std::memory_order_relaxed);
  t.empty_slabs--;
}

// Puts a slab that no cursor is at into the state that its number of free blocks calls for. A slab
// with few free blocks is not worth the walk: it would be left again at once, and new objects would
// be scattered over many pages.
void SmallHeap::settle(ThreadHeap& t, Slab& s, bool keep_empty) {
  const ClassInfo& c = kClasses[s.tag() - 1];
  const uint32_t used = s.used.load(std::memory_order_relaxed);
  if (used > c.blocks - c.spare_blocks) {
    s.wake = static_cast<uint16_t>(c.blocks - c.spare_blocks);
    return;
  }
  if (s.listed == 0) list(t, s);
  if (used == 0) {
    s.key.store(s.key.load(std::memory_order_relaxed) | kEmptySlab, std::memory_order_relaxed);
    t.empty_slabs++;
  }
  s.wake = used == 0 ? kNever : 0;
  const bool spare = t.empty_slabs > kSpareSlabs + t.slabs / 32;
  if (used == 0 && (spare || !keep_empty)) give_back(t, s);
}

// A listed slab without used blocks.
void SmallHeap::give_back(ThreadHeap& t, Slab& s) {
  if (s.next_remote.load(std::memory_order_acquire) != kNotQueued) return;  // drain will do it
  unlist(t, s);
  t.slabs--;
  s.key.store(0, std::memory_order_release);
  (void)pages_->release(chunk_of(s) * kPagesPerChunk, RunKind::kSlab);
}

BlockState SmallHeap::release_remotely(Slab& s, uint32_t block) {
  const uint32_t chunk = chunk_of(s);
  const uint64_t bit = uint64_t{1} << (block % 64);
  const uint64_t old = remotes_[chunk].bits[block / 64].fetch_or(bit, std::memory_order_seq_cst);
  if ((old & bit) != 0) return BlockState::kFree;
  uint32_t queued = s.next_remote.load(std::memory_order_seq_cst);
  if (queued == kNotQueued && s.next_remote.compare_exchange_strong(queued, kClaimed)) {
    push_remote(chunk);
  }
  return BlockState::kLive;
}

// The slab is claimed.
void SmallHeap::push_remote(uint32_t chunk) {
  Slab& s = slabs_[chunk];
  ThreadHeap& owner = heaps_[s.owner()];
  uint32_t head = owner.remote_slabs.load(std::memory_order_relaxed);
  do {
    s.next_remote.store(head, std::memory_order_relaxed);
  } while (!owner.remote_slabs.compare_exchange_weak(head, chunk + 1, std::memory_order_seq_cst,
                                                     std::memory_order_relaxed));
  // Nobody empties the stack of a thread that has ended until its heap is taken over.
  constexpr uint32_t kPatience = 16;
  if (abandoned_count_.load(std::memory_order_relaxed) == 0 ||
      __atomic_add_fetch(&owner.remote_pushes, 1, __ATOMIC_RELAXED) % kPatience != 0 ||
      !heaps_lock_.try_lock()) {
    return;
  }
  if (owner.state == HeapState::kAbandoned) {
    drain(owner);
    give_back_empty(owner);
  }
  heaps_lock_.unlock();
}

// Takes back what others have freed. True if that was anything.
bool SmallHeap::merge_remote(Slab& s) {
  RemoteFrees& r = remotes_[chunk_of(s)];
  int count = 0;
  for (uint32_t w = 0; w < words_of(s); w++) {
    if (r.bits[w].load(std::memory_order_seq_cst) == 0) continue;
    const uint64_t bits = r.bits[w].exchange(0, std::memory_order_seq_cst);
    s.free[w].store(s.free[w].load(std::memory_order_relaxed) | bits, std::memory_order_relaxed);
    count += __builtin_popcountll(bits);
  }
  if (count == 0) return false;
  s.used.store(static_cast<uint16_t>(s.used.load(std::memory_order_relaxed) - count),
               std::memory_order_relaxed);
  return true;
}

// By the owner, or under heaps_lock_ for an abandoned heap.
void SmallHeap::drain(ThreadHeap& t) {
  if (t.remote_slabs.load(std::memory_order_relaxed) == kEndOfStack) return;
  uint32_t next = t.remote_slabs.exchange(kEndOfStack, std::memory_order_seq_cst);
  while (next != kEndOfStack) {
    const uint32_t chunk = next - 1;
    Slab& s = slabs_[chunk];
    next = s.next_remote.load(std::memory_order_relaxed);
    // A thread may push a slab late, when it has got another owner or is a slab no more.
    if (s.tag() != 0 && s.owner() != t.id) {
      push_remote(chunk);
      continue;
    }
    s.next_remote.exchange(kNotQueued, std::memory_order_seq_cst);
    const uint32_t tag = s.tag();
    if (tag == 0) continue;
    Cursor& k = t.cursors[tag - 1];
    const bool was_empty = (s.key.load(std::memory_order_relaxed) & kEmptySlab) != 0;
    (void)merge_remote(s);
    if (k.slab == &s) {
      continue;  // found when the cursor has come to its end
    }
    if (was_empty) {
      if (t.empty_slabs > kSpareSlabs + t.slabs / 32) give_back(t, s);
    } else {
      settle(t, s, true);
    }
  }
}

void SmallHeap::give_back_empty(ThreadHeap& t) {
  for (uint32_t c = 0; c < kSizeClasses && t.empty_slabs != 0; c++) {
    for (uint32_t at = kNil;;) {  // from the highest down
      at = Treap(SlabTree{slabs_}).predecessor(t.partial[c], at);
      if (at == kNil) break;
      if ((slabs_[at].key.load(std::memory_order_relaxed) & kEmptySlab) != 0) {
        give_back(t, slabs_[at]);
      }
    }
  }
}

uint32_t SmallHeap::take_run(uint32_t pages) {
  ThreadHeap& t = *t_heap;
  KeptRuns& r = t.runs[run_class(pages)];
  if (r.count == 0) return kNil;
  const uint32_t page = r.pages[--r.count];
  t.kept_pages.store(t.kept_pages.load(std::memory_order_relaxed) - pages,
                     std::memory_order_relaxed);
  return page;
}

bool SmallHeap::keep_run(uint32_t page, uint32_t pages) {
  ThreadHeap& t = *t_heap;
  if (&t == &g_none || pages > kMostKeptPages) return false;
  const uint32_t c = run_class(pages);
  KeptRuns& r = t.runs[c];
  const uint32_t kept = t.kept_pages.load(std::memory_order_relaxed);
  if (pages_of_run_class(c) != pages || r.count == KeptRuns::kMost || kept + pages > kKeptPages) {
    return false;
  }
  r.pages[r.count++] = page;
  t.kept_pages.store(kept + pages, std::memory_order_relaxed);
  return true;
}

uint64_t SmallHeap::kept_bytes() const {
  uint64_t pages = 0;
  for (uint32_t id = 0; id < heaps_made_; id++) {
    pages += heaps_[id].kept_pages.load(std::memory_order_relaxed);
  }
  return pages * kPageSize;
}

void SmallHeap::give_back_runs(ThreadHeap& t) {
  for (KeptRuns& r : t.runs) {
    while (r.count != 0) (void)pages_->release(r.pages[--r.count], RunKind::kKept);
  }
  t.kept_pages.store(0, std::memory_order_relaxed);
}

void SmallHeap::trim() {
  if (t_heap != &g_none) {
    Busy busy(*t_heap);
    give_back_runs(*t_heap);
    drain(*t_heap);
    forget_all(*t_heap);
    for (uint32_t c = 0; c < kSizeClasses; c++) {
      if (t_heap->cursors[c].slab != nullptr) retire(*t_heap, c);
    }
    give_back_empty(*t_heap);
  }
  LockGuard guard(heaps_lock_);
  for (uint32_t id = abandoned_; id != kNil; id = heaps_[id].next_abandoned) {
    drain(heaps_[id]);
    give_back_empty(heaps_[id]);
  }
}

// ---- threads ------------------------------------------------------------------------------------

ThreadHeap* SmallHeap::attach() {
  ThreadHeap* t = nullptr;
  {
    LockGuard guard(heaps_lock_);
    if (abandoned_ != kNil) {
      t = &heaps_[abandoned_];
      abandoned_ = t->next_abandoned;
      abandoned_count_.fetch_sub(1, std::memory_order_relaxed);
    } else if (heaps_made_ < heap_count_) {
      t = &heaps_[heaps_made_];
      reset(*t, heaps_made_++);
    } else {
      return nullptr;
    }
    t->state = HeapState::kOwned;
  }
  set_own(t);
  // May allocate, which works already.
  if (g_key_made.load() != 0) (void)pthread_setspecific(g_key, t);
  return t;
}

void SmallHeap::leave_thread() {
  ThreadHeap* t = t_heap;
  if (t == &g_none) return;
  t_left = true;
  g_small->abandon(*t);
  g_small->set_own(&g_none);
}

void SmallHeap::abandon(ThreadHeap& t) {
  {
    Busy busy(t);
    drain(t);
    forget_all(t);
    for (uint32_t c = 0; c < kSizeClasses; c++) {
      if (t.cursors[c].slab != nullptr) retire(t, c);
    }
    give_back_empty(t);
    give_back_runs(t);
  }
  LockGuard guard(heaps_lock_);
  t.state = HeapState::kAbandoned;
  t.next_abandoned = abandoned_;
  abandoned_ = t.id;
  abandoned_count_.fetch_add(1, std::memory_order_relaxed);
}

// A slab with free blocks of a thread that has ended.
uint32_t SmallHeap::adopt(ThreadHeap& t, uint32_t size_class) {
  if (abandoned_count_.load(std::memory_order_relaxed) == 0) return kNil;
  constexpr int kMostHeaps = 16;
  LockGuard guard(heaps_lock_);
  int looked_at = 0;
  for (uint32_t id = abandoned_; id != kNil && looked_at < kMostHeaps; looked_at++) {
    ThreadHeap& other = heaps_[id];
    id = other.next_abandoned;
    drain(other);
    const uint32_t chunk = Treap(SlabTree{slabs_}).lowest(other.partial[size_class]);
    if (chunk == kNil) continue;
    Slab& s = slabs_[chunk];
    unlist(other, s);
    other.slabs--;
    t.slabs++;
    s.key.store(slab_key(size_class, t.id), std::memory_order_release);
    return chunk;
  }
  return kNil;
}

void SmallHeap::lock_for_fork() {
  heaps_lock_.lock();
  shared_lock_.lock();
}

void SmallHeap::unlock_in_parent() {
  shared_lock_.unlock();
  heaps_lock_.unlock();
}

void SmallHeap::recover(bool keep_own) {
  heaps_lock_.reset_in_child();
  shared_lock_.reset_in_child();
  g_small = this;
  if (!keep_own) set_own(&g_none);
  for (uint32_t id = 0; id < heaps_made_; id++) {
    ThreadHeap& t = heaps_[id];
    // The words of another program's library are not ours.
    for (uint32_t c = 0; c < kSizeClasses && !keep_own; c++) {
      if (t.cursors[c].slab == nullptr) t.cursors[c].word = &g_zero_word;
    }
    if (id == kSharedHeap || &t == t_heap || t.state != HeapState::kOwned) continue;
    if (t.busy != 0) {
      t.state = HeapState::kLost;  // it was changing something; what it holds stays lost
    } else {
      abandon(t);
    }
  }
}

// ---- looking ------------------------------------------------------------------------------------

BlockState SmallHeap::look_up(uint64_t address, uint32_t* ret_bytes) const {
  uint32_t chunk, block;
  const BlockState state = locate(address, &chunk, &block);
  if (state != BlockState::kLive) return state;
  const uint64_t remote = remotes_[chunk].bits[block / 64].load(std::memory_order_relaxed);
  if ((remote >> (block % 64) & 1) != 0) return BlockState::kFree;
  *ret_bytes = kClasses[slabs_[chunk].tag() - 1].bytes;
  return BlockState::kLive;
}

uint64_t SmallHeap::used_bytes() const {
  uint64_t bytes = 0;
  const uint32_t chunks = pages_->grown_pages() / kPagesPerChunk;
  for (uint32_t i = 0; i < chunks; i++) {
    const uint32_t tag = slabs_[i].tag();
    if (tag == 0) continue;
    const bool remote = slabs_[i].next_remote.load(std::memory_order_relaxed) != kNotQueued;
    int used = static_cast<int>(kClasses[tag - 1].blocks);
    for (uint32_t w = 0; w < words_of(slabs_[i]); w++) {
      uint64_t free = slabs_[i].free[w].load(std::memory_order_relaxed);
      if (remote) free |= remotes_[i].bits[w].load(std::memory_order_relaxed);
      used -= __builtin_popcountll(free);
    }
    if (used > 0) bytes += static_cast<uint64_t>(used) * kClasses[tag - 1].bytes;
  }
  return bytes;
}

bool SmallHeap::walk_slab(uint32_t chunk,
                          bool (*each)(void* context, uint64_t address, uint64_t bytes),
                          void* context) const {
  const Slab& s = slabs_[chunk];
  const ClassInfo& c = kClasses[s.tag() - 1];
  for (uint32_t b = 0; b < c.blocks; b++) {
    const uint64_t free = s.free[b / 64].load(std::memory_order_relaxed) |
                          remotes_[chunk].bits[b / 64].load(std::memory_order_relaxed);
    if ((free >> (b % 64) & 1) != 0) continue;
    if (!each(context, address_of(chunk) + b * uint64_t{c.bytes}, c.bytes)) return false;
  }
  return true;
}

// How many blocks of the slab its owner has freed a moment ago.
uint32_t SmallHeap::recent_of(const Slab& s) const {
  const Recent& r = heaps_[s.owner()].recent[s.tag() - 1];
  uint32_t count = 0;
  for (uint32_t i = 0; i * sizeof(Recent::Block) < r.end; i++) {
    count += r.blocks[i].word >= s.free && r.blocks[i].word < s.free + kSlabWords ? 1 : 0;
  }
  return count;
}

const char* SmallHeap::check() const {
  const uint32_t chunks = pages_->grown_pages() / kPagesPerChunk;
  uint32_t listed = 0;
  for (uint32_t i = 0; i < chunks; i++) {
    const Slab& s = slabs_[i];
    const uint32_t tag = s.tag();
    if (tag == 0) continue;
    if (tag > kSizeClasses) return "a slab of an unknown class";
    if (s.blocks != kClasses[tag - 1].blocks) return "a slab with a wrong number of blocks";
    const uint32_t owner = s.owner();
    if (owner >= heaps_made_) return "a slab of a heap that does not exist";
    if (heaps_[owner].state == HeapState::kLost) continue;  // given up in the middle of a change
    uint32_t free = 0;
    for (uint32_t w = 0; w < kSlabWords; w++) {
      const uint64_t bits = s.free[w].load(), remote = remotes_[i].bits[w].load();
      const uint32_t here = s.blocks > w * 64 ? s.blocks - w * 64 : 0;
      if (here < 64 && (bits | remote) >> here != 0) return "a free block beyond the last one";
      if ((bits & remote) != 0) return "a block that is free twice";
      if (remote != 0 && s.next_remote.load() == kNotQueued) return "remote frees nobody will see";
      free += static_cast<uint32_t>(__builtin_popcountll(bits));
    }
    free -= recent_of(s);
    if (free + s.used.load() != s.blocks) return "a slab whose count differs from its bitmap";
    const bool current = heaps_[owner].cursors[tag - 1].slab == &s;
    if (current && s.listed != 0) return "a cursor's slab in a tree";
    const bool empty = (s.key.load() & kEmptySlab) != 0;
    if (empty != (s.listed != 0 && s.used.load() == 0)) return "a slab wrongly marked as empty";
    if (!current && s.listed == 0 && s.wake >= s.used.load()) return "a slab that nobody will use";
    listed += s.listed;
  }
  uint32_t found = 0;
  for (uint32_t id = 0; id < heaps_made_; id++) {
    if (heaps_[id].state == HeapState::kLost) continue;
    for (uint32_t c = 0; c < kSizeClasses; c++) {
      for (uint32_t at = kNil;;) {
        at = Treap(SlabTree{slabs_}).predecessor(heaps_[id].partial[c], at);
        if (at == kNil) break;
        if (slabs_[at].owner() != id) return "a slab in another thread's tree";
        if (slabs_[at].tag() != c + 1) return "a slab in another class's tree";
        found++;
      }
    }
  }
  return listed == found ? nullptr : "a tree has lost slabs";
}

}  // namespace cr::nvheap
