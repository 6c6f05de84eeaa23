/* SPDX-License-Identifier: MIT */
/* crtest: mode=often,cycles kill=later users=root,nobody track=auto,uffd,hash,hash-entries,all
 *
 * Random changes of the memory map and of what is in it, against a table of what every page must
 * hold: stores, stores by the kernel, MADV_DONTNEED, mappings replaced in place, moved, grown,
 * protected and split, private pages of a file that become the file's again, brk up and down. With
 * mode=often checkpoints come all the time, so that each builds on the one before.
 */
#define _GNU_SOURCE
#include "memory_model.h"

static void protect_and_back(struct region *r, size_t first, size_t count) {
  if (first + count > r->pages) count = r->pages - first;
  REQUIRE(mprotect(r->at + first * kPage, count * kPage, PROT_READ) == 0);
  check_region(r);
  REQUIRE(mprotect(r->at + first * kPage, count * kPage, PROT_READ | PROT_WRITE) == 0);
}

static void step(void) {
  struct region *r = &regions[random_below(kRegions)];
  const size_t first = random_below(r->pages), count = 1 + random_below(12);
  check_region(r);
  switch (random_below(16)) {
    case 0:
      drop(r, first, count);
      break;
    case 1:
      map_region(r, r->at, r->pages);
      break;
    case 2:
      move(r);
      break;
    case 3:
      protect_and_back(r, first, count);
      break;
    case 4:
      kernel_stores(r, first);
      break;
    case 5:
      REQUIRE(munmap(r->at, r->pages * kPage) == 0);
      map_region(r, NULL, 1 + random_below(kMost));
      break;
    case 6:
      change_brk();
      break;
    case 7: /* the page is there again, and nothing has been stored */
      drop(r, first, count);
      check_region(r);
      break;
    default:
      store(r, first, count);
  }
}

static enum kind kind_of(int i) { return i % 4 == 3 ? kOfFile : kAnonymous; }

int main(void) {
  make_regions(kind_of);
  test_ready();
  for (uint64_t n = 0; test_failures == 0; n++) {
    step();
    if (n % 64 == 0) check_everything();
    if (n % 16 == 0) usleep(500);
    if (n % 256 == 0 && test_poll()) break;
  }
  check_everything();
  test_finish();
}
