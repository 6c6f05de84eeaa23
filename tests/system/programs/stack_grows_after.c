/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The main stack is shallow during the checkpoints and must still grow to 7 MiB afterwards; so
 * must the kernel's idea of it ([stack] in /proc/self/maps, the room for growth below it).
 */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "three_phase.h"

enum { kFrameBytes = 4096, kDepth = 1792 }; /* 7 MiB */

static __attribute__((noinline)) int descend(int depth) {
  volatile char frame[kFrameBytes - 64];
  frame[0] = (char)depth;
  frame[sizeof frame - 1] = (char)(depth + 1);
  int deepest = depth < kDepth ? descend(depth + 1) : depth;
  CHECK_EQ("first byte of a frame", (char)depth, frame[0]);
  CHECK_EQ("last byte of a frame", (char)(depth + 1), frame[sizeof frame - 1]);
  return deepest;
}

int main(void) {
  struct rlimit limit;
  REQUIRE(getrlimit(RLIMIT_STACK, &limit) == 0);
  if (limit.rlim_cur < 8u << 20) test_skip("the stack limit is below 8 MiB");
  test_ready();
  test_wait();
  CHECK_EQ("deepest frame", kDepth, descend(0));
  static char maps[1 << 20];
  REQUIRE(test_read_file("/proc/self/maps", maps, sizeof maps) > 0);
  char *name = strstr(maps, "[stack]");
  CHECK("a mapping is named [stack]", name != NULL);
  if (name != NULL) {
    while (name > maps && name[-1] != '\n') name--;
    unsigned long begin = 0, end = 0;
    sscanf(name, "%lx-%lx", &begin, &end);
    CHECK("it holds main's frame", begin < (uintptr_t)&limit && (uintptr_t)&limit < end);
  }
  test_finish();
}
