/* SPDX-License-Identifier: MIT */
/*
 * files_numbers.c - has two files open for writing by turns, by the same descriptor number, for
 * tests/system/files_test.py: what is copied for one, while the program runs, must not be the
 * other.
 *
 * A third file is larger, always changed, and comes first in the order in which files are copied,
 * so that there is time for the two to change hands.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "three_phase.h"

enum { kBytes = 3000, kLarge = 8 << 20 };

static ino_t make(const char *path, char letter, size_t bytes) {
  static char content[kLarge];
  struct stat st;
  memset(content, letter, bytes);
  const int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
  REQUIRE(fd >= 0 && write(fd, content, bytes) == (ssize_t)bytes && fstat(fd, &st) == 0);
  close(fd);
  return st.st_ino;
}

int main(void) {
  const ino_t first = make("large", 'x', kLarge);
  for (char letter = 'a'; letter <= 'b'; letter++) {
    const char name[2] = {letter, 0};
    for (int i = 0; make(name, letter, kBytes) < first; i++) {
      char other[16];
      if (i == 100) test_skip("inode numbers do not ascend");
      sprintf(other, "%c.%d", letter, i);
      REQUIRE(rename(name, other) == 0);
    }
  }
  const int large = open("large", O_RDWR);
  usleep(100000);
  test_ready();
  for (char letter = 'a';; letter = letter == 'a' ? 'b' : 'a') {
    const char name[2] = {letter, 0};
    const int fd = open(name, O_RDWR);
    const double begin = test_now();
    REQUIRE(fd >= 0);
    while (test_now() - begin < 0.001) continue;
    close(fd);
    REQUIRE(pwrite(large, name, 1, 0) == 1);
  }
}
