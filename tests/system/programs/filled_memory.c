/* SPDX-License-Identifier: MIT */
/*
 * filled_memory.c - SEED MIB [PAGES]: so much memory, of which no byte pattern comes twice, so many
 * pages of it (default 1) written anew every 0.2 s; at CRTEST_GO each byte must be what was written
 * last. Used by store_test.py, which keeps many of these at once, so it does as little as it can
 * besides.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kPage = 4096, kWords = kPage / 8, kMostPages = 64 << 8 };
static uint32_t written[kMostPages]; /* how often each page was */

static uint64_t word(uint64_t seed, size_t page, size_t i) {
  return test_pattern(seed << 40 | (uint64_t)written[page] << 20 | page, i);
}

static void write_page(uint64_t *at, uint64_t seed, size_t page) {
  written[page]++;
  for (size_t i = 0; i < kWords; i++) at[page * kWords + i] = word(seed, page, i);
}

int main(int argc, char **argv) {
  REQUIRE(argc == 3 || argc == 4);
  const uint64_t seed = strtoull(argv[1], NULL, 10);
  const size_t pages = strtoull(argv[2], NULL, 10) << 8;
  const size_t each = argc == 4 ? strtoull(argv[3], NULL, 10) : 1;
  REQUIRE(pages > 0 && pages <= kMostPages);
  uint64_t *at =
      mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(at != MAP_FAILED);
  for (size_t page = 0; page < pages; page++) write_page(at, seed, page);
  test_ready();
  for (size_t step = 0; !test_poll(); step++) {
    for (size_t i = 0; i < each; i++) {
      write_page(at, seed, test_pattern(seed, step * each + i) % pages);
    }
    usleep(200000);
  }
  for (size_t page = 0; page < pages; page++) {
    for (size_t i = 0; i < kWords; i++) {
      if (at[page * kWords + i] == word(seed, page, i)) continue;
      TEST_FAIL("page %zu of %zu, word %zu, expected %#llx, got %#llx", page, pages, i,
                (unsigned long long)word(seed, page, i), (unsigned long long)at[page * kWords + i]);
      break;
    }
  }
  test_finish();
}
