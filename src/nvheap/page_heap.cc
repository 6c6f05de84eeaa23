// SPDX-License-Identifier: MIT
// page_heap.cc - allocation of page runs, lowest address first.
// Invariant: as page_heap.h. Context: N.
#include "nvheap/page_heap.h"

#include "nvheap/treap.h"

namespace cr::nvheap {
namespace {

// Free pages that hold old data are kept for the next blocks, because a page fault costs more than
// most uses of a page. Beyond this many, and an eighth of what is in use, half of them are given
// back to the system, from the highest address down, but not more often than once in a second:
// many programs free and allocate much in turn. Beyond the higher bound, back at once.
constexpr uint64_t kKeepDirtyPages = 1024;
constexpr uint64_t kMostDirtyPages = 16384;
constexpr uint64_t kPurgeIntervalNs = 1000000000;
// Shorter runs are not worth a system call.
constexpr uint32_t kGiveBackPages = 8;
// The heap grows by at least 1 MiB, later by an eighth, at most by 64 MiB more than needed: few
// mprotect calls, yet little that a dirty-page scan must pass over.
constexpr uint32_t kMinGrowthPages = 256;
constexpr uint32_t kMaxGrowthPages = 16 * 1024;
// How many runs are tried for one that fits with its alignment before a longer one is asked for.
constexpr uint32_t kAlignedTries = 32;

constexpr uint64_t align_up(uint64_t v, uint64_t to) { return (v + to - 1) & ~(to - 1); }

bool make_accessible(uint64_t from, uint64_t to) {
  from = page_floor(from);
  to = page_ceil(to);
  return from >= to || rawsys::sys_mprotect(from, to - from, PROT_READ | PROT_WRITE) == 0;
}

}  // namespace

void PageHeap::set_up(PageEntry* entries, Slab* slabs, RemoteFrees* remotes, uint64_t data_address,
                      uint32_t max_pages) {
  entries_ = entries;
  slabs_ = slabs;
  remotes_ = remotes;
  data_address_ = data_address;
  max_pages_ = max_pages;
}

void PageHeap::FreeRuns::update(uint32_t i) const {
  uint32_t longest = entries[i].pages;
  const uint32_t l = left(i), r = right(i);
  if (l != kNil && entries[l].max_pages > longest) longest = entries[l].max_pages;
  if (r != kNil && entries[r].max_pages > longest) longest = entries[r].max_pages;
  entries[i].max_pages = longest;
}

uint32_t PageHeap::allocate(uint32_t pages, uint32_t align_pages, RunKind kind, bool* ret_zeroed) {
  LockGuard guard(lock_);
  if (pages > max_pages_) return kNil;
  uint32_t run = kNil;
  uint32_t page = aligned_fit(pages, align_pages, kAlignedTries, &run);
  if (page == kNil) {
    // Longer than any free run, or aligned and hard to find: the end of the heap, else a last look.
    (void)grow(first_aligned(tail_run(), align_pages) + pages);
    page = aligned_fit(pages, align_pages, max_pages_, &run);
    if (page == kNil) return kNil;
  }
  if (ret_zeroed != nullptr) *ret_zeroed = entries_[run].dirty == 0;
  take(run, page, pages);
  entries_[page].kind.store(kind, std::memory_order_relaxed);
  entries_[page].pages = pages;
  count(kind, pages);
  return page;
}

bool PageHeap::release(uint32_t page, RunKind kind) {
  uint32_t pages = 0;
  {
    LockGuard guard(lock_);
    PageEntry& e = entries_[page];
    if (e.kind != kind) return false;
    e.kind = RunKind::kFreeing;
    pages = e.pages;
    count(kind, -static_cast<int64_t>(pages));
  }
  // Giving back gigabytes takes long: not under the lock.
  const bool dirty = pages < kMostDirtyPages || !discard(page, pages);
  LockGuard guard(lock_);
  add_free(page, pages, dirty);
  const uint64_t in_use = grown_pages() - free_pages_;
  if (dirty_pages_ > kKeepDirtyPages + in_use / 8) {
    const uint64_t now = rawsys::clock_ns(CLOCK_MONOTONIC_COARSE);
    if (last_purge_ns_ == 0) last_purge_ns_ = now;
    if (now - last_purge_ns_ >= kPurgeIntervalNs || dirty_pages_ > kMostDirtyPages + in_use / 2) {
      last_purge_ns_ = now;
      discard_some();
    }
  }
  return true;
}

uint32_t PageHeap::length(uint32_t page, RunKind kind) {
  LockGuard guard(lock_);
  return entries_[page].kind == kind ? entries_[page].pages : 0;
}

bool PageHeap::resize(uint32_t page, uint32_t pages) {
  uint32_t rest = 0;
  RunKind kind;
  {
    LockGuard guard(lock_);
    PageEntry& e = entries_[page];
    kind = e.kind;
    if (pages > e.pages) {
      const uint32_t more = pages - e.pages, next = page + e.pages;
      const uint32_t grown = grown_pages();
      const bool next_is_free = next < grown && entries_[next].kind == RunKind::kFree;
      const uint32_t room = next_is_free ? entries_[next].pages : 0;
      if (room < more) {
        if (next + room != grown) return false;
        if (!grow(uint64_t{page} + pages)) return false;
      }
      take(next, next, more);
      e.pages = pages;
      count(kind, more);
      return true;
    }
    rest = e.pages - pages;
    if (rest == 0) return true;
    e.pages = pages;
    entries_[page + pages].kind = kind;
    entries_[page + pages].pages = rest;
  }
  return release(page + pages, kind);
}

// The free run at the end of the data in use; if there is none, the end.
uint32_t PageHeap::tail_run() const {
  const uint32_t grown = grown_pages();
  const uint32_t last = Treap(FreeRuns{entries_}).predecessor(root_, grown);
  return last != kNil && last + entries_[last].pages == grown ? last : grown;
}

uint64_t PageHeap::first_aligned(uint32_t page, uint32_t align_pages) const {
  const uint64_t base = data_address_ / kPageSize;
  return align_up(base + page, align_pages) - base;
}

// Makes the pages below `end_page`, and some more, usable. Metadata first: a page is never usable
// before its PageEntry and SlabRecord are.
bool PageHeap::grow(uint64_t end_page) {
  const uint32_t grown = grown_pages();
  if (end_page <= grown) return true;
  if (end_page > max_pages_) return false;
  uint32_t growth = grown / 8;
  if (growth < kMinGrowthPages) growth = kMinGrowthPages;
  if (growth > kMaxGrowthPages) growth = kMaxGrowthPages;
  uint64_t to64 = end_page > grown + uint64_t{growth} ? end_page : grown + uint64_t{growth};
  to64 = align_up(to64, kPagesPerChunk);
  const uint32_t to = to64 > max_pages_ ? max_pages_ : static_cast<uint32_t>(to64);
  const auto entry_at = [&](uint32_t i) { return reinterpret_cast<uint64_t>(entries_ + i); };
  const auto slab_at = [&](uint32_t i) { return reinterpret_cast<uint64_t>(slabs_ + i); };
  const auto remote_at = [&](uint32_t i) { return reinterpret_cast<uint64_t>(remotes_ + i); };
  if (!make_accessible(entry_at(grown), entry_at(to)) ||
      !make_accessible(slab_at(grown / kPagesPerChunk), slab_at(to / kPagesPerChunk)) ||
      !make_accessible(remote_at(grown / kPagesPerChunk), remote_at(to / kPagesPerChunk)) ||
      !make_accessible(data_address_ + grown * kPageSize, data_address_ + to * kPageSize)) {
    return false;
  }
  grown_pages_.store(to, std::memory_order_release);
  add_free(grown, to - grown, /*dirty=*/false);
  return true;
}

// The lowest run at or above `from` with at least `pages`.
uint32_t PageHeap::first_fit(uint32_t root, uint32_t pages, uint32_t from) const {
  if (root == kNil || entries_[root].max_pages < pages) return kNil;
  if (root >= from) {
    const uint32_t found = first_fit(entries_[root].left, pages, from);
    if (found != kNil) return found;
    if (entries_[root].pages >= pages) return root;
  }
  return first_fit(entries_[root].right, pages, from);
}

// The first of the lowest `tries` long enough runs that has room for an aligned one, else the
// lowest
// that is certain to have.
uint32_t PageHeap::aligned_fit(uint32_t pages, uint32_t align_pages, uint32_t tries,
                               uint32_t* ret_run) const {
  uint32_t run = first_fit(root_, pages, 0);
  for (uint32_t i = 0; run != kNil; i++) {
    const uint64_t page = first_aligned(run, align_pages);
    if (page + pages <= uint64_t{run} + entries_[run].pages) {
      *ret_run = run;
      return static_cast<uint32_t>(page);
    }
    const uint64_t wanted = i < tries ? pages : uint64_t{pages} + align_pages - 1;
    if (wanted > max_pages_) return kNil;
    run = first_fit(root_, static_cast<uint32_t>(wanted), run + 1);
  }
  return kNil;
}

// Cuts [page, page + pages) out of the free run.
void PageHeap::take(uint32_t run, uint32_t page, uint32_t pages) {
  const uint32_t end = run + entries_[run].pages;
  const bool dirty = entries_[run].dirty != 0;
  erase_run(run);
  if (page > run) insert_run(run, page - run, dirty);
  if (page + pages < end) insert_run(page + pages, end - page - pages, dirty);
}

void PageHeap::insert_run(uint32_t page, uint32_t pages, bool dirty) {
  PageEntry& e = entries_[page];
  e.kind = RunKind::kFree;
  e.pages = pages;
  e.left = e.right = kNil;
  e.dirty = dirty ? 1 : 0;
  free_pages_ += pages;
  if (dirty) dirty_pages_ += pages;
  root_ = Treap(FreeRuns{entries_}).insert(root_, page);
}

void PageHeap::erase_run(uint32_t page) {
  root_ = Treap(FreeRuns{entries_}).erase(root_, page);
  entries_[page].kind = RunKind::kNone;
  free_pages_ -= entries_[page].pages;
  if (entries_[page].dirty != 0) dirty_pages_ -= entries_[page].pages;
}

// Adds a free run, joined with its free neighbours.
void PageHeap::add_free(uint32_t page, uint32_t pages, bool dirty) {
  entries_[page].kind = RunKind::kNone;
  const uint32_t before = Treap(FreeRuns{entries_}).predecessor(root_, page);
  if (before != kNil && before + entries_[before].pages == page) {
    dirty = dirty || entries_[before].dirty != 0;
    pages += entries_[before].pages;
    page = before;
    erase_run(before);
  }
  const uint32_t after = page + pages;
  if (after < grown_pages() && entries_[after].kind == RunKind::kFree) {
    dirty = dirty || entries_[after].dirty != 0;
    pages += entries_[after].pages;
    erase_run(after);
  }
  insert_run(page, pages, dirty);
}

void PageHeap::discard_some() {
  const uint64_t keep = (kKeepDirtyPages + (grown_pages() - free_pages_) / 8) / 2;
  Treap tree(FreeRuns{entries_});
  for (uint32_t run = tree.predecessor(root_, grown_pages()); run != kNil && dirty_pages_ > keep;
       run = tree.predecessor(root_, run)) {
    PageEntry& e = entries_[run];
    if (e.dirty == 0 || e.pages < kGiveBackPages || !discard(run, e.pages)) continue;
    e.dirty = 0;
    dirty_pages_ -= e.pages;
  }
}

uint64_t PageHeap::trim(uint64_t keep_bytes) {
  LockGuard guard(lock_);
  const uint64_t before = dirty_pages_;
  Treap tree(FreeRuns{entries_});
  for (uint32_t run = tree.predecessor(root_, grown_pages());
       run != kNil && dirty_pages_ * kPageSize > keep_bytes; run = tree.predecessor(root_, run)) {
    PageEntry& e = entries_[run];
    if (e.dirty == 0 || !discard(run, e.pages)) continue;
    e.dirty = 0;
    dirty_pages_ -= e.pages;
  }
  return (before - dirty_pages_) * kPageSize;
}

PageHeap::Totals PageHeap::totals() {
  LockGuard guard(lock_);
  return {free_pages_ * kPageSize, dirty_pages_ * kPageSize};
}

const char* PageHeap::check() const {
  uint64_t free = 0, dirty = 0;
  bool before_is_free = false;
  uint32_t page = 0;
  for (; page < grown_pages(); page += entries_[page].pages) {
    const PageEntry& e = entries_[page];
    if (e.kind == RunKind::kNone) return "a page that belongs to no run";
    if (e.pages == 0) return "a run without pages";
    if (e.kind == RunKind::kFree && before_is_free) return "two free runs side by side";
    before_is_free = e.kind == RunKind::kFree;
    if (!before_is_free) continue;
    free += e.pages;
    if (e.dirty != 0) dirty += e.pages;
  }
  if (page != grown_pages()) return "a run beyond the end of the heap";
  if (free != free_pages_ || dirty != dirty_pages_) return "a wrong count of free pages";
  return nullptr;
}

void PageHeap::walk(bool (*each)(void* context, uint32_t page, const PageEntry& entry),
                    void* context) const {
  for (uint32_t page = 0; page < grown_pages(); page += entries_[page].pages) {
    if (!each(context, page, entries_[page])) return;
  }
}

// False if the pages may still hold data (locked memory cannot be given back).
bool PageHeap::discard(uint32_t page, uint32_t pages) const {
  return rawsys::sys(__NR_madvise, data_address_ + page * kPageSize, pages * kPageSize,
                     MADV_DONTNEED) == 0;
}

void PageHeap::count(RunKind kind, int64_t pages) {
  if (kind == RunKind::kSlab) return;  // counted block by block
  used_pages_.fetch_add(static_cast<uint64_t>(pages), std::memory_order_relaxed);
}

}  // namespace cr::nvheap
