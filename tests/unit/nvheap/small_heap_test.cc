// SPDX-License-Identifier: MIT
// small_heap_test.cc - size classes, and which block comes next.
// Invariant under test: small waste; lowest address first; free blocks are never written.
#include "nvheap/small_heap.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

#include "checkpoint_restore.h"
#include "nvheap/nvheap.h"

using namespace cr::nvheap;

Test(small_heap, classes_fit_every_size_closely) {
  for (size_t bytes = 1; bytes <= kMaxSmallBytes; bytes++) {
    const uint32_t c = class_of_bytes(bytes);
    cr_assert_lt(c, kSizeClasses);
    cr_assert_geq(bytes_of_class(c), bytes);
    cr_assert(c == 0 || bytes_of_class(c - 1) < bytes, "%zu would fit in a smaller class", bytes);
    cr_assert_leq(bytes_of_class(c) - bytes, bytes < 64 ? 15u : bytes / 4);
    cr_assert_eq(bytes_of_class(c) % 16, 0u);
  }
  cr_assert_eq(class_of_bytes(0), 0u);
}

Test(small_heap, every_block_of_every_class_is_found_again) {
  for (uint32_t c = 0; c < kSizeClasses; c++) {
    const uint32_t size = bytes_of_class(c), blocks = blocks_of_class(c);
    static char* all[kMaxBlocksPerSlab];
    for (uint32_t i = 0; i < blocks; i++) {
      all[i] = static_cast<char*>(crmalloc(size));
      cr_assert_not_null(all[i]);
      cr_assert_eq(crmalloc_usable_size(all[i]), size);
      cr_assert(i == 0 || all[i] == all[i - 1] + size, "class of %u: not the next block", size);
      memset(all[i], 0xff, size);
    }
    for (uint32_t i = 0; i < blocks; i++) crfree(all[i]);
  }
  uint64_t in_use = 1, reserve = 0;
  stats(&in_use, &reserve);
  cr_assert_eq(in_use, 0u);
}

// How free() finds the number of a block, and that the address is its beginning.
Test(small_heap, the_product_with_the_reciprocal_tells_number_and_beginning) {
  for (const ClassInfo& c : kClasses) {
    for (uint64_t offset = 0; offset < kChunkBytes; offset++) {
      const uint64_t product = offset * c.reciprocal;
      cr_assert_eq(product >> 32, offset / c.bytes);
      cr_assert_eq(static_cast<uint32_t>(product) < c.reciprocal, offset % c.bytes == 0,
                   "%lu in blocks of %u", static_cast<unsigned long>(offset), c.bytes);
    }
  }
}

Test(small_heap, what_was_freed_last_comes_first) {
  static void* blocks[200];  // one slab
  for (void*& b : blocks) b = crmalloc(100);
  void* high = blocks[190];
  void* middle = blocks[100];
  void* low = blocks[10];
  crfree(high);
  crfree(low);
  crfree(middle);
  cr_assert_eq(crmalloc(100), middle);
  cr_assert_eq(crmalloc(100), low);
  cr_assert_eq(crmalloc(100), high);
  cr_assert_null(check(), "%s", check());
}

Test(small_heap, a_nearly_full_slab_is_left_alone_and_the_lowest_other_one_used) {
  constexpr uint32_t kClass = 5;  // 96 bytes
  constexpr uint32_t kBlocks = blocks_of_class(kClass), kSpare = kClasses[kClass].spare_blocks;
  static void* blocks[4 * kBlocks];
  for (void*& b : blocks) b = crmalloc(96);
  crfree(blocks[0]);  // one of the first slab: not worth it
  for (uint32_t i = 0; i < kSpare; i++) crfree(blocks[2 * kBlocks + i]);
  for (uint32_t i = 0; i < kSpare; i++) crfree(blocks[kBlocks + i]);
  // What is freed last is used first: out of the way with it.
  for (uint32_t i = 0; i < Recent::kMost; i++) crfree(blocks[3 * kBlocks + i]);
  void* const* last_slab = &blocks[3 * kBlocks];
  void* next = crmalloc(96);
  for (uint32_t i = 1; next >= last_slab[0] && next <= last_slab[Recent::kMost]; i++) {
    cr_assert_leq(i, Recent::kMost);
    next = crmalloc(96);
  }
  cr_assert_eq(next, blocks[kBlocks]);
  for (uint32_t i = 1; i < kSpare; i++) cr_assert_eq(crmalloc(96), blocks[kBlocks + i]);
  for (uint32_t i = 0; i < kSpare; i++) cr_assert_eq(crmalloc(96), blocks[2 * kBlocks + i]);
  void* fresh = crmalloc(96);
  for (void* b : blocks) cr_assert_neq(fresh, b);
  cr_assert_null(check(), "%s", check());
}

// Blocks that were freed last keep their slabs only until something else is freed, or trimmed.
Test(small_heap, slabs_whose_last_blocks_were_just_freed_go_back_when_trimmed) {
  static void* blocks[40];
  for (size_t bytes : {64, 4096, 16384}) {
    for (void*& b : blocks) b = crmalloc(bytes);
    for (void* b : blocks) crfree(b);
    cr_assert_null(check(), "%s", check());
  }
  uint64_t in_use = 1, reserve = 0;
  stats(&in_use, &reserve);
  cr_assert_eq(in_use, 0u, "what was freed last counts as used");
  cr_assert_gt(all_stats().slab_bytes, 0u);
  (void)crmalloc_trim(0);
  cr_assert_eq(all_stats().slab_bytes, 0u);
  cr_assert_null(check(), "%s", check());
}

Test(small_heap, free_blocks_are_not_written) {
  static unsigned char* blocks[200];
  for (auto& b : blocks) {
    b = static_cast<unsigned char*>(crmalloc(320));
    memset(b, 0xa5, 320);
  }
  for (int i = 0; i < 200; i += 2) crfree(blocks[i]);
  for (int i = 0; i < 200; i += 2) {
    for (int k = 0; k < 320; k++) cr_assert_eq(blocks[i][k], 0xa5);
  }
  // Also handing a block out again leaves it as it was.
  auto* again = static_cast<unsigned char*>(crmalloc(320));
  cr_assert_eq(again, blocks[198]);
  for (int k = 0; k < 320; k++) cr_assert_eq(again[k], 0xa5);
}

Test(small_heap, empty_slabs_go_back_and_serve_other_sizes) {
  static void* blocks[64 * 64];
  uint64_t end_before = 0;
  for (int round = 0; round < 20; round++) {
    const size_t size = static_cast<size_t>(1024 + 1024 * (round % 2));
    for (void*& b : blocks) b = crmalloc(size);
    for (void* b : blocks) crfree(b);
    if (round == 3) end_before = range_info().data_end;
  }
  cr_assert_eq(range_info().data_end, end_before, "the heap grows without need");
}

namespace {

struct Handover {
  void* blocks[20000];
  int count;
};

void* allocate_many(void* arg) {
  auto* h = static_cast<Handover*>(arg);
  for (int i = 0; i < h->count; i++) {
    h->blocks[i] = crmalloc(static_cast<size_t>(16 + i % 500));
    memset(h->blocks[i], i, 16);
  }
  return nullptr;
}

void run_thread(void* (*start)(void*), void* arg) {
  pthread_t thread;
  cr_assert_eq(pthread_create(&thread, nullptr, start, arg), 0);
  pthread_join(thread, nullptr);
}

}  // namespace

Test(small_heap, what_an_ended_thread_left_is_taken_over) {
  static Handover h;
  h.count = 20000;
  run_thread(allocate_many, &h);
  const uint64_t end = range_info().data_end;
  for (int i = 0; i < h.count; i++) {
    cr_assert_eq(*static_cast<unsigned char*>(h.blocks[i]), static_cast<unsigned char>(i));
    crfree(h.blocks[i]);
  }
  allocate_many(&h);  // here, in the slabs of the thread that is gone
  cr_assert_leq(range_info().data_end, end + (uint64_t{2} << 20), "its slabs were not used again");
  for (int i = 0; i < h.count; i++) crfree(h.blocks[i]);
  cr_assert_null(check(), "%s", check());
  (void)crmalloc_trim(0);
  cr_assert_null(check(), "%s", check());
  uint64_t in_use = 1, reserve = 0;
  stats(&in_use, &reserve);
  cr_assert_eq(in_use, 0u);
  cr_assert_eq(all_stats().slab_bytes, 0u, "empty slabs were kept");
  cr_assert_eq(all_stats().free_dirty_bytes, 0u);
}

Test(small_heap, many_short_threads_use_few_slabs) {
  static Handover h;
  h.count = 100;
  for (int i = 0; i < 5000; i++) {
    run_thread(allocate_many, &h);
    for (int k = 0; k < h.count; k++) crfree(h.blocks[k]);
  }
  cr_assert_leq(range_info().data_end - range_info().data_begin, uint64_t{16} << 20);
  cr_assert_null(check(), "%s", check());
}

Test(small_heap, more_threads_than_heaps_of_their_own) {
  static pthread_barrier_t barrier;
  constexpr unsigned kThreads = 300;  // at a time; the limit itself is kThreadHeaps
  pthread_barrier_init(&barrier, nullptr, kThreads);
  static pthread_t threads[kThreads];
  auto body = [](void*) -> void* {
    void* mine = crmalloc(100);
    memset(mine, 1, 100);
    pthread_barrier_wait(&barrier);
    crfree(mine);
    return nullptr;
  };
  for (auto& t : threads) cr_assert_eq(pthread_create(&t, nullptr, body, nullptr), 0);
  for (auto& t : threads) pthread_join(t, nullptr);
  cr_assert_null(check(), "%s", check());
}
