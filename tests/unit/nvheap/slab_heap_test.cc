// SPDX-License-Identifier: MIT
// slab_heap_test.cc - size classes, and which block comes next.
// Invariant under test: small waste; lowest address first; free blocks are never written.
#include "nvheap/slab_heap.h"

#include <criterion/criterion.h>
#include <string.h>

#include "checkpoint_restore.h"
#include "nvheap/nvheap.h"

using namespace cr::nvheap;

Test(slab_heap, classes_fit_every_size_closely) {
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

Test(slab_heap, every_block_of_every_class_is_found_again) {
  for (uint32_t c = 0; c < kSizeClasses; c++) {
    const uint32_t size = bytes_of_class(c), blocks = 65536 / size;
    static char* all[4096];
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

Test(slab_heap, lowest_free_block_is_reused_first) {
  static void* blocks[3000];
  for (void*& b : blocks) b = crmalloc(100);
  void* high = blocks[2900];
  void* middle = blocks[1500];
  void* low = blocks[10];
  crfree(high);
  crfree(low);
  crfree(middle);
  cr_assert_eq(crmalloc(100), low);
  cr_assert_eq(crmalloc(100), middle);
  cr_assert_eq(crmalloc(100), high);
}

Test(slab_heap, free_blocks_are_not_written) {
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
  cr_assert_eq(again, blocks[0]);
  for (int k = 0; k < 320; k++) cr_assert_eq(again[k], 0xa5);
}

Test(slab_heap, empty_slabs_go_back_and_serve_other_sizes) {
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
