// SPDX-License-Identifier: MIT
// page_heap_test.cc - page runs against a model that knows the owner of every page.
// Invariant under test: runs never overlap, lie lowest first, read as zeros when said so, and free
// neighbours join.
#include "nvheap/page_heap.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/nvheap/random.h"

using namespace cr::nvheap;

namespace {

constexpr uint32_t kPages = 4096;

struct Fixture {
  PageHeap heap;
  char* data;
  Fixture() {
    const auto map = [](size_t bytes) {
      void* p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      cr_assert_neq(p, MAP_FAILED);
      return p;
    };
    auto* entries = static_cast<PageEntry*>(map(kPages * sizeof(PageEntry)));
    auto* slabs = static_cast<Slab*>(map(kPages / kPagesPerChunk * sizeof(Slab)));
    auto* remotes = static_cast<RemoteFrees*>(map(kPages / kPagesPerChunk * sizeof(RemoteFrees)));
    auto at = reinterpret_cast<uint64_t>(map(kPages * cr::kPageSize + kChunkBytes));
    at = (at + kChunkBytes - 1) & ~(kChunkBytes - 1);
    data = reinterpret_cast<char*>(at);
    heap.set_up(entries, slabs, remotes, at, kPages);
  }
  char* page(uint32_t i) { return data + i * cr::kPageSize; }
};

class Model {
 public:
  explicit Model(uint64_t seed) : random_(seed) {}

  void step() {
    const uint64_t what = random_.below(8);
    if (what < 4 || runs_ == 0) {
      add();
    } else if (what < 7) {
      remove(static_cast<uint32_t>(random_.below(runs_)));
    } else {
      resize(static_cast<uint32_t>(random_.below(runs_)));
    }
  }
  void remove_all() {
    while (runs_ > 0) remove(0);
  }
  PageHeap& heap() { return f_.heap; }
  int refused() const { return refused_; }

 private:
  struct Run {
    uint32_t page, pages;
  };

  bool is_free(uint32_t page, uint32_t pages) const {
    for (uint32_t i = page; i < page + pages; i++) {
      if (i >= kPages || used_[i]) return false;
    }
    return true;
  }
  void mark(uint32_t page, uint32_t pages, bool used) {
    for (uint32_t i = page; i < page + pages; i++) {
      cr_assert_neq(used_[i], used, "page %u", i);
      used_[i] = used;
      if (used) memset(f_.page(i), 0x5a, cr::kPageSize);
    }
  }
  uint32_t random_length() {
    return static_cast<uint32_t>(1 + random_.below(random_.one_in(8) ? 200 : 20));
  }

  void add() {
    const uint32_t pages = random_length();
    const uint32_t align = random_.one_in(3) ? 1u << random_.below(7) : 1;
    bool zeroed = false;
    const uint32_t page = f_.heap.allocate(pages, align, RunKind::kLarge, &zeroed);
    if (page == kNil) {
      for (uint32_t i = 0; i + pages <= kPages; i++) {
        const bool aligned = reinterpret_cast<uint64_t>(f_.page(i)) % (align * cr::kPageSize) == 0;
        cr_assert(!aligned || !is_free(i, pages), "did not find %u pages at %u", pages, i);
      }
      refused_++;
      return;
    }
    cr_assert_eq(reinterpret_cast<uint64_t>(f_.page(page)) % (align * cr::kPageSize), 0u);
    cr_assert(is_free(page, pages));
    if (align == 1) {
      for (uint32_t i = 0; i < page; i++) cr_assert(!is_free(i, pages), "not the lowest");
    }
    if (zeroed) {
      for (uint32_t i = 0; i < pages * cr::kPageSize; i++) cr_assert_eq(f_.page(page)[i], 0);
    }
    mark(page, pages, true);
    run_[runs_++] = {page, pages};
  }
  void remove(uint32_t i) {
    cr_assert_eq(f_.heap.length(run_[i].page, RunKind::kLarge), run_[i].pages);
    cr_assert_not(f_.heap.release(run_[i].page, RunKind::kStack));
    cr_assert(f_.heap.release(run_[i].page, RunKind::kLarge));
    cr_assert_not(f_.heap.release(run_[i].page, RunKind::kLarge));
    mark(run_[i].page, run_[i].pages, false);
    run_[i] = run_[--runs_];
  }
  void resize(uint32_t i) {
    const Run old = run_[i];
    const uint32_t pages = random_length();
    const bool fits = pages <= old.pages || is_free(old.page + old.pages, pages - old.pages);
    cr_assert_eq(f_.heap.resize(old.page, pages), fits);
    if (!fits) return;
    if (pages > old.pages) {
      mark(old.page + old.pages, pages - old.pages, true);
    } else {
      mark(old.page + pages, old.pages - pages, false);
    }
    run_[i].pages = pages;
  }

  cr_test::Random random_;
  Fixture f_;
  bool used_[kPages] = {};
  Run run_[kPages] = {};
  uint32_t runs_ = 0;
  int refused_ = 0;
};

}  // namespace

Test(page_heap, behaves_as_the_model) {
  const uint64_t seed = cr_test::test_seed();
  for (uint64_t part = 0; part < 3; part++) {
    static Model* model;
    model = new Model(seed + part);
    for (int i = 0; i < 2500; i++) {
      model->step();
      if (i % 100 == 0) cr_assert_null(model->heap().check(), "%s", model->heap().check());
    }
    cr_assert_gt(model->refused(), 0, "the heap was never full: the test is too easy");
    model->remove_all();
    cr_assert_eq(model->heap().used_bytes(), 0u);
    const uint32_t all = model->heap().grown_pages();
    cr_assert_eq(model->heap().allocate(all, 1, RunKind::kLarge), 0u, "free runs did not join");
    delete model;
  }
}

namespace {
size_t resident_pages(Fixture& f, uint32_t page, uint32_t pages) {
  static unsigned char resident[kPages];
  cr_assert_eq(mincore(f.page(page), pages * cr::kPageSize, resident), 0);
  size_t n = 0;
  for (uint32_t i = 0; i < pages; i++) n += resident[i] & 1;
  return n;
}
}  // namespace

Test(page_heap, free_pages_are_kept_up_to_a_bound) {
  Fixture f;
  constexpr uint32_t kRun = 100;
  uint32_t pages[30];
  for (uint32_t& p : pages) {
    p = f.heap.allocate(kRun, 1, RunKind::kLarge);
    memset(f.page(p), 1, kRun * cr::kPageSize);
  }
  bool zeroed = true;
  cr_assert(f.heap.release(pages[0], RunKind::kLarge));
  cr_assert_eq(resident_pages(f, pages[0], kRun), kRun);
  cr_assert_eq(f.heap.allocate(kRun, 1, RunKind::kLarge, &zeroed), pages[0]);
  cr_assert_not(zeroed);
  const uint32_t last = f.heap.allocate(1, 1, RunKind::kLarge);
  for (uint32_t p : pages) cr_assert(f.heap.release(p, RunKind::kLarge));
  usleep(1100000);  // not more often than once in a second
  cr_assert(f.heap.release(last, RunKind::kLarge));
  cr_assert_null(f.heap.check(), "%s", f.heap.check());
  cr_assert_leq(f.heap.totals().dirty_bytes, uint64_t{5} << 20);
  cr_assert_leq(resident_pages(f, 0, 30 * kRun) * cr::kPageSize, f.heap.totals().dirty_bytes);
}

Test(page_heap, trim_gives_back_all_free_pages) {
  Fixture f;
  uint32_t pages[40];
  for (uint32_t& p : pages) {
    p = f.heap.allocate(1, 1, RunKind::kLarge);
    memset(f.page(p), 1, cr::kPageSize);
  }
  for (int i = 0; i < 40; i += 2) cr_assert(f.heap.release(pages[i], RunKind::kLarge));
  cr_assert_eq(f.heap.trim(8 * cr::kPageSize), 12 * cr::kPageSize);
  cr_assert_eq(f.heap.trim(0), 8 * cr::kPageSize);
  cr_assert_eq(resident_pages(f, 0, 40), 20u);
  bool zeroed = false;
  cr_assert_eq(f.heap.allocate(1, 1, RunKind::kLarge, &zeroed), pages[0]);
  cr_assert(zeroed);
}

Test(page_heap, grows_enough_for_an_alignment) {
  // The free run at the end is long enough, but not from an aligned page on.
  Fixture f;
  cr_assert_eq(f.heap.allocate(1, 1, RunKind::kLarge), 0u);
  const uint32_t rest = f.heap.grown_pages() - 1;
  const uint32_t page = f.heap.allocate(rest, kPagesPerChunk, RunKind::kLarge);
  cr_assert_eq(page, kPagesPerChunk);
}

Test(page_heap, refuses_what_does_not_fit) {
  Fixture f;
  cr_assert_eq(f.heap.allocate(kPages + 1, 1, RunKind::kLarge), kNil);
  cr_assert_eq(f.heap.allocate(kPages, 1, RunKind::kLarge), 0u);
  cr_assert_eq(f.heap.allocate(1, 1, RunKind::kLarge), kNil);
  cr_assert_not(f.heap.resize(0, kPages + 1));
  cr_assert(f.heap.resize(0, kPages - 1));
  cr_assert_eq(f.heap.allocate(1, 1, RunKind::kLarge), kPages - 1);
}
