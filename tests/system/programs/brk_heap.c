/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The break: content of the area below it, its place, and that it grows and shrinks afterwards.
 */
#define _GNU_SOURCE
#include "three_phase.h"

enum { kBytes = 1 << 20 };

int main(void) {
  char *before = sbrk(kBytes);
  REQUIRE(before != (void *)-1);
  test_fill(before, kBytes, 1);
  char *end = sbrk(0);
  test_ready();
  test_wait();
  CHECK_EQ("the break", (uintptr_t)end, (uintptr_t)sbrk(0));
  test_check_fill("content below the break", before, kBytes, 1);
  char *more = sbrk(kBytes);
  CHECK_EQ("old break returned when growing", (uintptr_t)end, (uintptr_t)more);
  if (more == end) {
    for (int i = 0; i < kBytes; i += 512) CHECK_EQ("fresh byte", 0, more[i]);
    test_fill(more, kBytes, 2);
    test_check_fill("content of the grown part", more, kBytes, 2);
    CHECK("shrinking", sbrk(-kBytes) == more + kBytes);
    CHECK_EQ("the break after shrinking", (uintptr_t)end, (uintptr_t)sbrk(0));
  }
  free(malloc(100 << 10));
  test_finish();
}
