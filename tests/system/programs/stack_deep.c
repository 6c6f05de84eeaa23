/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The main stack is 6 MiB deep in live frames during the checkpoints; afterwards it goes deeper,
 * and every frame is found intact on the way back.
 */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "three_phase.h"

enum { kFrameBytes = 4096, kDepth = 1536, kMore = 350 }; /* 6 MiB, and about 1.4 MiB more */

static __attribute__((noinline)) uint64_t descend(int depth, int bottom, void (*at_bottom)(void)) {
  volatile uint64_t frame[kFrameBytes / 8 - 8];
  for (size_t i = 0; i < sizeof frame / 8; i += 32) frame[i] = test_pattern((uint64_t)depth, i);
  uint64_t sum = depth < bottom ? descend(depth + 1, bottom, at_bottom) : (at_bottom(), 0);
  for (size_t i = 0; i < sizeof frame / 8; i += 32) {
    CHECK_EQ("word of a stack frame", test_pattern((uint64_t)depth, i), frame[i]);
    sum += frame[i];
  }
  return sum;
}

static void nothing(void) {}
static void at_bottom(void) {
  test_ready();
  test_wait();
  CHECK("deeper", descend(kDepth, kDepth + kMore, nothing) != 0);
}

int main(void) {
  struct rlimit limit;
  REQUIRE(getrlimit(RLIMIT_STACK, &limit) == 0);
  if (limit.rlim_cur < 8u << 20) test_skip("the stack limit is below 8 MiB");
  CHECK("unwound", descend(0, kDepth, at_bottom) != 0);
  test_finish();
}
