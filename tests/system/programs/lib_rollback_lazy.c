/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and memory that is not what it seems: pages that MADV_FREE has given up since the
 * checkpoint look unchanged until the kernel takes them, which MADV_PAGEOUT makes it do, and are
 * counted late if they are few; pages without any access, and read-only ones, that were written
 * through a door of their own; memory that is left out of checkpoints reads as zeros.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "rollback.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
enum { kBytes = 64 * 4096, kRounds = 6 };

static unsigned char *map(void) {
  void *p = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(p != MAP_FAILED);
  return p;
}
static void poke(unsigned char *at, unsigned char value) {
  const int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0 && pwrite(fd, &value, 1, (off_t)(uintptr_t)at) == 1);
  close(fd);
}

int main(void) {
  rollback_begin();
  unsigned char *freed = map(), *few = map(), *closed = map(), *constant = map(), *excluded = map();
  test_fill(freed, kBytes, 1);
  test_fill(few, kBytes, 6);
  test_fill(closed, kBytes, 2);
  test_fill(constant, kBytes, 3);
  test_fill(excluded, kBytes, 4);
  REQUIRE(crexclude(excluded, kBytes) == 0);
  REQUIRE(mprotect(closed, kBytes, PROT_NONE) == 0);
  REQUIRE(mprotect(constant, kBytes, PROT_READ) == 0);

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
    madvise(freed, kBytes, MADV_PAGEOUT);
    madvise(few, kBytes, MADV_PAGEOUT);
    for (int i = 0; i < kBytes; i++) {
      if (excluded[i] != 0) {
        TEST_FAIL("left out, byte %d, expected 0, got %d", i, excluded[i]);
        break;
      }
    }
    test_check_fill("given up", freed, kBytes, 1);
    test_check_fill("one page given up", few, kBytes, 6);
  }
  test_check_fill("read-only", constant, kBytes, 3);
  REQUIRE(mprotect(closed, kBytes, PROT_READ) == 0);
  test_check_fill("without access", closed, kBytes, 2);
  REQUIRE(mprotect(closed, kBytes, PROT_NONE) == 0);
  if (test_failures != 0 || round >= kRounds) test_finish();

  if (round > 1) REQUIRE(madvise(freed, kBytes, MADV_FREE) == 0);
  REQUIRE(madvise(few + 4096, 4096, MADV_FREE) == 0);
  poke(closed + 5000, 1);
  poke(constant + 9000, 1);
  if (round % 2 == 0) REQUIRE(mprotect(constant, kBytes / 2, PROT_NONE) == 0);
  test_fill(excluded, kBytes, 5);
  rollback_now();
}
