/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Private mappings of a file that was deleted: its clean pages exist nowhere but in memory, so
 * they must be in the image. Another file takes the old name, which must not be mapped instead.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kPage = 4096, kBytes = 16 * kPage };

int main(void) {
  static char content[kBytes], other[kBytes];
  test_fill(content, kBytes, 1);
  test_fill(other, kBytes, 2);
  int fd = open("deleted.bin", O_RDWR | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, content, kBytes) == kBytes);
  char *clean = mmap(NULL, kBytes, PROT_READ, MAP_PRIVATE, fd, 0);
  char *dirty = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  REQUIRE(clean != MAP_FAILED && dirty != MAP_FAILED);
  close(fd);
  dirty[3 * kPage] ^= 1;
  REQUIRE(unlink("deleted.bin") == 0);
  fd = open("deleted.bin", O_RDWR | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, other, kBytes) == kBytes);
  close(fd);
  test_ready();
  test_wait();
  CHECK_BYTES("clean mapping", content, clean, kBytes);
  content[3 * kPage] ^= 1;
  CHECK_BYTES("written mapping", content, dirty, kBytes);
  test_finish();
}
