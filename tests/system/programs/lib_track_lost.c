/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * Two ways in which the kernel stops counting writes: tracked memory that mremap puts beside
 * tracked memory (both lose their tracking, pages keep their marks), and a page of a mapped file
 * that was dropped (its mark looks like a swapped page). What the newest image has must be what was
 * there.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>

#include "rollback.h"

enum { kPage = 4096, kPages = 4, kBytes = kPages * kPage };

static int take(void) {
  const int r = checkpoint();
  REQUIRE(r >= 0);
  return r;
}

int main(void) {
  const int fd = open("large", O_RDWR | O_CREAT | O_TRUNC, 0600);
  REQUIRE(fd >= 0 && ftruncate(fd, (off_t)20 << 20) == 0 && pwrite(fd, "file", 4, 0) == 4);
  const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  REQUIRE(futimens(fd, long_ago) == 0);
  rollback_begin();
  unsigned char *area = mmap(NULL, 64 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(area != MAP_FAILED);
  unsigned char *const beside = area + 8 * kPage, *const far = area + 40 * kPage;
  const int kFixed = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, kRw = PROT_READ | PROT_WRITE;
  REQUIRE(mmap(beside, kBytes, kRw, kFixed, -1, 0) == beside);
  REQUIRE(mmap(far, kBytes, kRw, kFixed, -1, 0) == far);
  unsigned char *file = mmap(NULL, 20 << 20, kRw, MAP_PRIVATE, fd, 0);
  REQUIRE(file != MAP_FAILED);
  memset(beside, 1, kBytes);
  memcpy(file, "mine", 4);
  take();
  REQUIRE(mremap(far, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, beside + kBytes) ==
          beside + kBytes);
  beside[0] = 2;
  REQUIRE(madvise(file, kPage, MADV_DONTNEED) == 0);
  take();
  beside[0] = 3;
  const int r = take();
  const uint64_t round = rollback_count("rounds");
  CHECK_EQ("written after its tracking was lost", 3, beside[0]);
  CHECK("dropped page of a file", memcmp(file, "file", 4) == 0);
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
  }
  if (test_failures != 0 || round >= 3) test_finish();
  beside[0] = 4;
  memcpy(file, "else", 4);
  rollback_now();
}
