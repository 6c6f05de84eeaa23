/* SPDX-License-Identifier: MIT */
/*
 * fifo_outside.c - one end of a FIFO whose other end is another process, for cli_test.py.
 *
 *   read    copies in.fifo: once when there is a file "read", and to its end in phase 3
 *   write   writes "written" to out.fifo in phase 3
 */
#define _GNU_SOURCE
#include "three_phase.h"

static int fifo;

static ssize_t copy_some(void) {
  char text[256];
  const ssize_t n = read(fifo, text, sizeof text);
  if (n > 0) REQUIRE(write(STDOUT_FILENO, text, (size_t)n) == n);
  return n;
}

static void step(void) {
  if (access("read", F_OK) != 0) return;
  CHECK_BETWEEN("bytes", 1, 256, copy_some());
  unlink("read");
}

int main(int argc, char **argv) {
  REQUIRE(argc == 2);
  const int reads = strcmp(argv[1], "read") == 0;
  fifo = open(reads ? "in.fifo" : "out.fifo", reads ? O_RDONLY : O_WRONLY);
  REQUIRE(fifo >= 0);
  test_ready();
  test_wait_doing(step);
  CHECK_EQ("O_NONBLOCK", 0, fcntl(fifo, F_GETFL) & O_NONBLOCK);
  if (!reads) CHECK_EQ("write", 7, write(fifo, "written", 7));
  while (reads && copy_some() > 0) {
  }
  test_finish();
}
