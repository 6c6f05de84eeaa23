/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often kill=later
 *
 * Open files that have got another name: by link() and unlink(), and from O_TMPFILE by linkat().
 * What is written to the descriptor is in the file of that name, after each restore too.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "three_phase.h"

static int linked, nameless; /* -1 where the file system has none */
static unsigned steps;

static void put(int fd) {
  char text[16];
  const int n = sprintf(text, "%08u", steps);
  REQUIRE(fd < 0 || pwrite(fd, text, (size_t)n, 0) == n);
}

static void check(const char *name, int fd) {
  char text[32] = "";
  struct stat a, b;
  if (fd < 0) return;
  test_read_file(name, text, sizeof text);
  CHECK_EQ(name, steps, (unsigned)strtoul(text, NULL, 10));
  CHECK("stat of both", fstat(fd, &a) == 0 && stat(name, &b) == 0);
  CHECK_EQ("they are one file", a.st_ino, b.st_ino);
}

static void verify(void) {
  check("final", linked);
  check("named", nameless);
  CHECK_EQ("the old name", -1, access("temporary", F_OK));
}

static void step(void) {
  verify();
  steps++;
  put(linked);
  put(nameless);
}

int main(void) {
  char self[40];
  linked = open("temporary", O_RDWR | O_CREAT | O_EXCL, 0600);
  REQUIRE(linked >= 0 && link("temporary", "final") == 0 && unlink("temporary") == 0);
  nameless = open(".", O_RDWR | O_TMPFILE, 0600);
  sprintf(self, "/proc/self/fd/%d", nameless);
  if (nameless >= 0) REQUIRE(linkat(AT_FDCWD, self, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
  put(linked);
  put(nameless);
  test_ready();
  test_wait_doing(step);
  for (int i = 0; i < 10; i++) step();
  verify();
  test_finish();
}
