// SPDX-License-Identifier: MIT
// page_heap.h - runs of pages: large blocks, slabs and stacks are cut from them.
// Invariant: every page below grown_pages() belongs to exactly one run, whose first PageEntry says
// its kind and length; two free runs never touch; a free run with dirty == 0 reads as zeros.
// Context: N. Thread-safe; callers hold no PageHeap lock.
#pragma once

#include <atomic>
#include <cstdint>

#include "nvheap/futex_lock.h"
#include "nvheap/heap_layout.h"

namespace cr::nvheap {

class PageHeap {
 public:
  void set_up(PageEntry* entries, Slab* slabs, RemoteFrees* remotes, uint64_t data_address,
              uint32_t max_pages);

  // The lowest free run that fits; grows the heap if none does. align_pages: a power of two.
  // Returns its page, or kNil. *ret_zeroed (if not null): it reads as zeros.
  uint32_t allocate(uint32_t pages, uint32_t align_pages, RunKind kind, bool* ret_zeroed = nullptr);
  // False, and nothing is done, if `page` is not the first of a run of that kind.
  [[nodiscard]] bool release(uint32_t page, RunKind kind);
  // Changes what a run is, which nobody else does meanwhile; without the lock. False: it is not of
  // that kind.
  [[nodiscard]] bool change_kind(uint32_t page, RunKind from, RunKind to) {
    return entries_[page].kind.compare_exchange_strong(from, to, std::memory_order_relaxed);
  }
  // For the owner of the run, without the lock.
  uint32_t own_length(uint32_t page) const { return entries_[page].pages; }
  // Length of the run of that kind which begins at `page`; 0 if none does.
  uint32_t length(uint32_t page, RunKind kind);
  // Make the run shorter or longer where it is. False: there is no room; it is as it was.
  [[nodiscard]] bool resize(uint32_t page, uint32_t pages);

  uint64_t data_address() const { return data_address_; }
  uint32_t grown_pages() const { return grown_pages_.load(std::memory_order_acquire); }
  // Give free pages back to the system until at most keep_bytes of them hold data.
  // Returns the bytes given back.
  uint64_t trim(uint64_t keep_bytes);
  struct Totals {
    uint64_t free_bytes, dirty_bytes;  // in free runs; of these, those that may hold data
  };
  Totals totals();
  // A word about the first broken invariant, else nullptr. Only while no call is under way.
  const char* check() const;
  // For each run: its first page, its entry. Only while no call is under way.
  void walk(bool (*each)(void* context, uint32_t page, const PageEntry& entry),
            void* context) const;

  const std::atomic<uint32_t>* grown_word() const { return &grown_pages_; }
  const void* lock_word() const { return &lock_; }
  const void* root_word() const { return &root_; }
  uint64_t used_bytes() const { return used_pages_.load(std::memory_order_relaxed) * kPageSize; }

  HeapLock& lock_for_fork() { return lock_; }

 private:
  struct FreeRuns {
    PageEntry* entries;
    uint32_t& left(uint32_t i) const { return entries[i].left; }
    uint32_t& right(uint32_t i) const { return entries[i].right; }
    void update(uint32_t i) const;
  };

  bool grow(uint64_t end_page);
  uint32_t tail_run() const;
  uint64_t first_aligned(uint32_t page, uint32_t align_pages) const;
  uint32_t first_fit(uint32_t root, uint32_t pages, uint32_t from) const;
  uint32_t aligned_fit(uint32_t pages, uint32_t align_pages, uint32_t tries,
                       uint32_t* ret_run) const;
  void take(uint32_t run, uint32_t page, uint32_t pages);
  void insert_run(uint32_t page, uint32_t pages, bool dirty);
  void erase_run(uint32_t page);
  void add_free(uint32_t page, uint32_t pages, bool dirty);
  bool discard(uint32_t page, uint32_t pages) const;
  void discard_some();
  void count(RunKind kind, int64_t pages);

  HeapLock lock_;
  uint32_t root_ = kNil;  // tree of free runs
  uint32_t max_pages_ = 0;
  std::atomic<uint32_t> grown_pages_{0};
  std::atomic<uint64_t> used_pages_{0};  // in large blocks and stacks
  uint64_t last_purge_ns_ = 0;
  uint64_t free_pages_ = 0, dirty_pages_ = 0;  // in free runs; dirty: that may hold data
  PageEntry* entries_ = nullptr;
  Slab* slabs_ = nullptr;
  RemoteFrees* remotes_ = nullptr;
  uint64_t data_address_ = 0;
};

}  // namespace cr::nvheap
