/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A read-only MAP_SHARED mapping of a file whose descriptor is closed: content is the file's, and
 * it stays a mapping of the file: what is written to the file afterwards shows through it. One
 * whose descriptor was for writing can be made writable, the others cannot.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kBytes = 8 * 4096 };

int main(void) {
  static char content[kBytes];
  test_fill(content, kBytes, 1);
  int fd = open("shared.bin", O_RDWR | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, content, kBytes) == kBytes);
  char *writable = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  fd = open("shared.bin", O_RDONLY);
  char *shared = mmap(NULL, kBytes, PROT_READ, MAP_SHARED, fd, 0);
  char *at_offset = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4 * 4096);
  REQUIRE(shared != MAP_FAILED && at_offset != MAP_FAILED && writable != MAP_FAILED);
  close(fd);
  test_ready();
  test_wait();
  CHECK_BYTES("shared mapping", content, shared, kBytes);
  CHECK_BYTES("shared mapping at an offset", content + 4 * 4096, at_offset, 4096);
  fd = open("shared.bin", O_RDWR);
  CHECK_EQ("write to the file", 3, pwrite(fd, "new", 3, 4 * 4096));
  close(fd);
  CHECK_BYTES("new content through the mapping", "new", shared + 4 * 4096, 3);
  CHECK_BYTES("new content through the mapping at an offset", "new", at_offset, 3);
  CHECK_EQ("made writable", 0, mprotect(writable, 4096, PROT_READ | PROT_WRITE));
  writable[0] = 'w';
  CHECK_EQ("seen by the others", 'w', shared[0]);
  CHECK("that could not be", mprotect(shared, 4096, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
  test_finish();
}
