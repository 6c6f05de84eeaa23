/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * MADV_DONTFORK and MADV_WIPEONFORK still act on a child forked afterwards: it has no such mapping,
 * or reads zeros, while ordinary memory beside them is copied. MADV_DONTNEED gives zeros.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kBytes = 4 * 4096 };

static char *map(uint64_t seed) {
  char *p = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(p != MAP_FAILED);
  test_fill(p, kBytes, seed);
  return p;
}

/* Is the range mapped? (msync reports ENOMEM without touching it.) */
static int is_mapped(void *p) { return msync(p, kBytes, MS_ASYNC) == 0; }

int main(void) {
  char *plain = map(1), *not_forked = map(2), *wiped = map(3);
  REQUIRE(madvise(not_forked, kBytes, MADV_DONTFORK) == 0);
  REQUIRE(madvise(wiped, kBytes, MADV_WIPEONFORK) == 0);
  test_ready();
  test_wait();
  test_check_fill("plain memory", plain, kBytes, 1);
  test_check_fill("MADV_DONTFORK memory", not_forked, kBytes, 2);
  test_check_fill("MADV_WIPEONFORK memory", wiped, kBytes, 3);
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    test_check_fill("plain memory in the child", plain, kBytes, 1);
    CHECK_EQ("MADV_DONTFORK memory is mapped in the child", 0, is_mapped(not_forked));
    for (int i = 0; i < kBytes; i += 256) CHECK_EQ("wiped memory in the child", 0, wiped[i]);
    _exit(test_failures != 0);
  }
  int status = -1;
  CHECK_EQ("waitpid", child, waitpid(child, &status, 0));
  CHECK_EQ("status of the child", 0, status);
  CHECK_EQ("MADV_DONTNEED", 0, madvise(plain, kBytes, MADV_DONTNEED));
  for (int i = 0; i < kBytes; i += 256) CHECK_EQ("discarded memory", 0, plain[i]);
  test_finish();
}
