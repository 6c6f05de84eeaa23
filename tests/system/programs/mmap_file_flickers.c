/* SPDX-License-Identifier: MIT */
/* crtest: mode=often,cycles kill=later users=root,nobody
 *
 * Mappings of a file in whose place there is anonymous memory half of the time: a checkpoint that
 * sees the file in the map, and copies what has come there since, must not take that for the file
 * when the file is back. Nothing is stored, so that no page tells by itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kMaps = 16, kPage = 4096, kPages = 3 };
static unsigned char *at[kMaps];
static int is_file[kMaps], fd;

static uint64_t word_of(int i, int page) { return test_pattern(500, (size_t)(i * kPages + page)); }

static void put_file(int i) {
  REQUIRE(mmap(at[i], kPages * kPage, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd,
               (off_t)i * kPages * kPage) == at[i]);
  is_file[i] = 1;
}

static void put_other(int i) {
  REQUIRE(mmap(at[i], kPages * kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
          at[i]);
  is_file[i] = 0;
}

static void check(int i) {
  for (int p = 0; p < kPages; p++) {
    uint64_t got;
    memcpy(&got, at[i] + p * kPage, sizeof got);
    CHECK_EQ(is_file[i] ? "a page of the file" : "a page of nothing",
             is_file[i] ? word_of(i, p) : 0, got);
  }
}

int main(void) {
  fd = open("flicker.data", O_RDWR | O_CREAT | O_TRUNC, 0600);
  REQUIRE(fd >= 0);
  for (int i = 0; i < kMaps; i++) {
    for (int p = 0; p < kPages; p++) {
      unsigned char page[kPage] = {0};
      const uint64_t word = word_of(i, p);
      memcpy(page, &word, sizeof word);
      REQUIRE(write(fd, page, kPage) == kPage);
    }
  }
  const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  REQUIRE(futimens(fd, long_ago) == 0);
  for (int i = 0; i < kMaps; i++) { /* with a gap in between: none is joined with another */
    at[i] = mmap(NULL, (kPages + 1) * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at[i] != MAP_FAILED);
    put_file(i);
  }
  test_ready();
  for (uint64_t n = 0; test_failures == 0; n++) {
    const int i = (int)(test_pattern(33, n) % kMaps);
    check(i);
    if (is_file[i]) {
      put_other(i);
    } else {
      put_file(i);
    }
    if (n % 256 == 0 && test_poll()) break;
  }
  for (int i = 0; i < kMaps; i++) check(i);
  test_finish();
}
