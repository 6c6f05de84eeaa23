/* SPDX-License-Identifier: MIT */
/*
 * heap_place.h - do blocks of malloc come from where they should?
 *
 * With the preload library, unless CR_MODE=engine, from the heap of checkpoint_restore, whose
 * address is fixed (docs/ARCHITECTURE.md, "nvheap"); else not.
 */
#ifndef TESTS_SYSTEM_HEAP_PLACE_H
#define TESTS_SYSTEM_HEAP_PLACE_H

#include "three_phase.h"

/* 1: it must, 0: it must not. */
static inline int heap_place_wanted(void) {
  const char *preload = getenv("LD_PRELOAD"), *mode = getenv("CR_MODE");
  if (preload == NULL || strstr(preload, "libcrpreload.so") == NULL) return 0;
  return mode == NULL || strcmp(mode, "engine") != 0;
}

static inline int in_heap_place(const void *block) {
  return (uintptr_t)block >= 0x200000000000u && (uintptr_t)block < 0x500000000000u;
}

static inline void check_place(const char *what, const void *block) {
  if (heap_place_wanted() != in_heap_place(block))
    TEST_FAIL("%s at %p, which is %sin the heap of checkpoint_restore", what, block,
              in_heap_place(block) ? "" : "not ");
}

#endif /* TESTS_SYSTEM_HEAP_PLACE_H */
