/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles timeout=120
 *
 * 64 GiB of MAP_NORESERVE memory with a few hundred touched pages: neither the checkpoint nor the
 * restore may take time or room for the rest. The runner's deadline is the check.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kTouched = 300 };
static const size_t kBytes = 64ull << 30;

static size_t touched_offset(int i) {
  return (size_t)(test_pattern(3, (uint64_t)i) % (kBytes / 4096)) * 4096;
}

int main(void) {
  char *sparse = mmap(NULL, kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (sparse == MAP_FAILED) test_skip("no 64 GiB of address space");
  madvise(sparse, kBytes, MADV_NOHUGEPAGE); /* else every touch fills 2 MiB */
  for (int i = 0; i < kTouched; i++) test_fill(sparse + touched_offset(i), 4096, (uint64_t)i + 10);
  test_ready();
  test_wait();
  for (int i = 0; i < kTouched; i++)
    test_check_fill("touched page", sparse + touched_offset(i), 4096, (uint64_t)i + 10);
  int untouched_checked = 0;
  for (int i = 0; i < 1000; i++) {
    size_t offset = (size_t)(test_pattern(4, (uint64_t)i) % (kBytes / 4096)) * 4096;
    int is_touched = 0;
    for (int j = 0; j < kTouched; j++) is_touched |= touched_offset(j) == offset;
    if (is_touched) continue;
    CHECK_EQ("untouched page", 0, sparse[offset]);
    untouched_checked++;
  }
  CHECK_BETWEEN("untouched pages looked at", 900, 1000, untouched_checked);
  test_finish();
}
