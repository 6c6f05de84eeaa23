/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Private mappings of a file: clean (still the file's content), with some pages written (the file
 * must not change), read-only, and at an offset. The descriptor is closed.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kPage = 4096, kBytes = 16 * kPage };

static void *map(int fd, int prot, off_t offset) {
  void *p = mmap(NULL, kBytes - (size_t)offset, prot, MAP_PRIVATE, fd, offset);
  REQUIRE(p != MAP_FAILED);
  return p;
}

int main(void) {
  static unsigned char content[kBytes], file_now[kBytes + 1];
  test_fill(content, kBytes, 1);
  int fd = open("mapped.bin", O_RDWR | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, content, kBytes) == kBytes);
  unsigned char *clean = map(fd, PROT_READ | PROT_WRITE, 0);
  unsigned char *dirty = map(fd, PROT_READ | PROT_WRITE, 0);
  unsigned char *read_only = map(fd, PROT_READ, 0);
  unsigned char *part = map(fd, PROT_READ | PROT_WRITE, 8 * kPage);
  close(fd);
  for (int page = 0; page < 16; page += 3) memset(dirty + page * kPage + 100, 0xEE, 50);
  part[0] ^= 0xFF;
  volatile unsigned char touched =
      clean[5 * kPage]; /* one clean page is present, the rest is not */
  (void)touched;

  test_ready();
  test_wait();

  CHECK_BYTES("clean mapping", content, clean, kBytes);
  CHECK_BYTES("read-only mapping", content, read_only, kBytes);
  for (int page = 0; page < 16; page++) {
    unsigned char expected[kPage];
    memcpy(expected, content + page * kPage, kPage);
    if (page % 3 == 0) memset(expected + 100, 0xEE, 50);
    CHECK_BYTES("partly written mapping", expected, dirty + page * kPage, kPage);
  }
  CHECK_EQ("written byte at the offset", (unsigned char)(content[8 * kPage] ^ 0xFF), part[0]);
  CHECK_BYTES("mapping at the offset", content + 8 * kPage + 1, part + 1, 8 * kPage - 1);
  clean[0] ^= 0xFF;
  dirty[kPage] = 1;
  CHECK_EQ("length of the file", kBytes,
           test_read_file("mapped.bin", (char *)file_now, sizeof file_now));
  CHECK_BYTES("the file itself", content, file_now, kBytes);
  test_finish();
}
