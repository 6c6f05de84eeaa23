/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Pages of zeros of every origin (never touched, only read, written with zeros, discarded by
 * MADV_DONTNEED) between pages with data: an image may leave the former out, and nothing but
 * zeros may come back for them, however often the restore is repeated.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kPage = 4096, kPages = 1000 };
enum kind { kUntouched, kRead, kZeroed, kDiscarded, kData, kKinds };

static enum kind kind_of(int page) { return (enum kind)(test_pattern(5, (uint64_t)page) % kKinds); }

int main(void) {
  char *memory = mmap(NULL, (size_t)kPages * kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  madvise(memory, (size_t)kPages * kPage, MADV_NOHUGEPAGE);
  volatile char sink;
  for (int page = 0; page < kPages; page++) {
    char *p = memory + (size_t)page * kPage;
    switch (kind_of(page)) {
      case kRead:
        sink = *p;
        break;
      case kZeroed:
        memset(p, 1, kPage);
        memset(p, 0, kPage);
        break;
      case kDiscarded:
        memset(p, 1, kPage);
        madvise(p, kPage, MADV_DONTNEED);
        break;
      case kData:
        test_fill(p, kPage, (uint64_t)page);
        break;
      default:
        break;
    }
  }
  (void)sink;
  static char bss[64 * kPage]; /* untouched .bss */
  test_ready();
  test_wait();
  static const char kZeros[kPage];
  for (int page = 0; page < kPages; page++) {
    const char *p = memory + (size_t)page * kPage;
    if (kind_of(page) == kData)
      test_check_fill("page with data", p, kPage, (uint64_t)page);
    else
      CHECK_BYTES("page of zeros", kZeros, p, kPage);
  }
  for (int i = 0; i < (int)sizeof bss; i += 100) CHECK_EQ(".bss", 0, ((volatile char *)bss)[i]);
  test_finish();
}
