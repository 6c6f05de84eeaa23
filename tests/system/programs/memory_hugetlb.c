/* SPDX-License-Identifier: MIT */
/* crtest: mode=often kill=later track=auto,uffd,hash,all hugepages=4
 *
 * Private memory of huge pages (MAP_HUGETLB) that changes all the time. Where there are none
 * (/proc/sys/vm/nr_hugepages) the test is skipped.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kHuge = 2 << 20, kPages = 2, kWords = 8 };
static unsigned char *memory;
static uint64_t seeds[kPages][kWords], state;

static unsigned char *word_at(int page, int i) {
  return memory + (size_t)page * kHuge + (size_t)i * (kHuge / kWords);
}
static void check_everything(void) {
  for (int p = 0; p < kPages; p++)
    for (int i = 0; i < kWords; i++) {
      uint64_t got;
      memcpy(&got, word_at(p, i), sizeof got);
      CHECK_EQ("word of a huge page", seeds[p][i], got);
    }
}

int main(void) {
  memory = mmap(NULL, (size_t)kPages * kHuge, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (memory == MAP_FAILED) test_skip("no huge pages (see /proc/sys/vm/nr_hugepages)");
  test_ready();
  while (test_failures == 0) {
    check_everything();
    const uint64_t r = test_pattern(5, state++);
    const int page = (int)(r % kPages), i = (int)(r / 8 % kWords);
    seeds[page][i] = r;
    memcpy(word_at(page, i), &r, sizeof r);
    if (r / 64 % 64 == 0) {
      REQUIRE(madvise(memory + (size_t)page * kHuge, kHuge, MADV_DONTNEED) == 0);
      memset(seeds[page], 0, sizeof seeds[page]);
    }
    if (state % 16 == 0) usleep(500);
    if (state % 64 == 0 && test_poll()) break;
  }
  check_everything();
  test_finish();
}
