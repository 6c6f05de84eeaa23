/* SPDX-License-Identifier: MIT */
/*
 * mremap_reads.c - moves memory of 1 or 2 mappings to a given place, again and again until the end
 * of the test, then prints how many reads the last kMoves moves made. For cli_test.py.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kBytes = 8 * 4096, kMoves = 50 };
static char *here, *there;

static void *map(int prot) {
  void *p = mmap(NULL, kBytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(p != MAP_FAILED);
  return p;
}

static void move(void) {
  REQUIRE(mremap(here, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, there) == there);
  char *again = mmap(here, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  REQUIRE(again == here);
  here = there;
  there = again;
}

/* By the kernel's books; the control thread's are others. */
static long reads_of_this_thread(void) {
  char text[512];
  const int fd = open("/proc/thread-self/io", O_RDONLY | O_CLOEXEC);
  const ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (length <= 0) test_skip("the kernel does not count reads (/proc/thread-self/io)");
  close(fd);
  text[length] = 0;
  const char *found = strstr(text, "syscr: ");
  REQUIRE(found != NULL);
  return atol(found + 7);
}

int main(int argc, char **argv) {
  const int mappings = argc == 2 ? atoi(argv[1]) : 1;
  here = map(PROT_READ | PROT_WRITE);
  if (mappings == 2) REQUIRE(madvise(here, kBytes / 2, MADV_DONTFORK) == 0);
  there = map(PROT_NONE);
  test_fill(here, kBytes, 1);
  test_ready();
  const long first = reads_of_this_thread();
  REQUIRE(reads_of_this_thread() == first + 1);
  while (!test_poll()) {
    move();
    usleep(1000);
  }
  const long before = reads_of_this_thread();
  for (int i = 0; i < kMoves; i++) move();
  const long reads = reads_of_this_thread() - before - 1; /* that of `before` itself */
  test_check_fill("what was moved", here, kBytes, 1);
  printf("%d moves made %ld reads\n", kMoves, reads);
  fflush(stdout);
  test_finish();
}
