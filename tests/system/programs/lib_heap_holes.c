/* SPDX-License-Identifier: MIT */
/*
 * lib_heap_holes.c - a heap that was large and is nearly empty: its free pages are no part of the
 * image, and what is left comes back.
 *
 * crtest: mode=cycles,live kill=later
 *
 * Usage: lib_heap_holes [MEBIBYTES]   (default 64: half in small blocks, half in one large one)
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>

#include "three_phase.h"

enum { kSmallBytes = 1000, kKeepEvery = 4096 };

static unsigned char byte_of(size_t i) { return (unsigned char)(i * 37 + 11); }

int main(int argc, char **argv) {
  size_t half = (argc > 1 ? (size_t)atol(argv[1]) : 64) << 19;
  size_t count = half / kSmallBytes;
  unsigned char **blocks = crcalloc(count, sizeof *blocks);
  unsigned char *large = crmalloc(half);
  if (blocks == NULL || large == NULL) return 1;
  memset(large, 0x5a, half);
  for (size_t i = 0; i < count; i++) {
    blocks[i] = crmalloc(kSmallBytes);
    if (blocks[i] == NULL) return 1;
    memset(blocks[i], byte_of(i), kSmallBytes);
  }
  for (size_t i = 0; i < count; i++) {
    if (i % kKeepEvery != 0) crfree(blocks[i]);
  }
  crfree(large);
  crroot_set("blocks", blocks);
  test_ready();
  test_wait();
  unsigned char **found = crroot_get("blocks");
  CHECK_EQ("root", (uintptr_t)blocks, (uintptr_t)found);
  for (size_t i = 0; i < count; i += kKeepEvery) {
    size_t wrong = 0;
    for (size_t k = 0; k < kSmallBytes; k++) wrong += found[i][k] != byte_of(i);
    CHECK_EQ("wrong bytes in a kept block", 0, wrong);
  }
  /* The free memory is as usable as ever, and zeroed memory is zero. */
  unsigned char *zeroed = crcalloc(1, half / 2);
  size_t other = 0;
  for (size_t k = 0; zeroed != NULL && k < half / 2; k++) other += zeroed[k] != 0;
  CHECK_EQ("bytes that are not zero", 0, other);
  for (size_t i = 0; i < count; i++) {
    if (i % kKeepEvery == 0) continue;
    found[i] = crmalloc(kSmallBytes);
    memset(found[i], byte_of(i), kSmallBytes);
  }
  for (size_t i = 0; i < count; i++) {
    CHECK_EQ("first byte", byte_of(i), found[i][0]);
    CHECK_EQ("last byte", byte_of(i), found[i][kSmallBytes - 1]);
    crfree(found[i]);
  }
  crfree(zeroed);
  test_finish();
}
