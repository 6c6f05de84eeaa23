/* SPDX-License-Identifier: MIT */
/*
 * often.c - how much a program slows down that takes a checkpoint many times in a second.
 *
 * In each period it writes to so many pages, calls checkpoint() if it shall, and computes until
 * that is over; what it got computed is the measure. The pages are the same ones each time ("hot")
 * or others each time ("moving").
 * Context: an ordinary program that links the library.
 *
 *   often IMAGE_DIR|- MIB PAGES hot|moving RATE SECONDS [PROTECT]
 *   "-": no checkpoints; PROTECT: as crrun --protect, of the crstored at CR_STORE_SOCKET; what is
 *   measured begins when two checkpoints have got to the other nodes, and a third is waited for
 *   prints: computed units, checkpoints taken, checkpoints whole (with PROTECT: on other nodes),
 *   seconds
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kPageBytes = 4096, kWarmUp = 20 };

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
  fprintf(stderr, "often: %s: %s\n", what, crerror());
  exit(1);
}

/* Some hundred nanoseconds of work that touches no memory. */
static uint64_t compute(uint64_t x) {
  for (int i = 0; i < 100; i++) x = x * 6364136223846793005u + 1442695040888963407u;
  return x;
}

int main(int argc, char **argv) {
  if (argc != 7 && argc != 8) {
    fprintf(stderr, "usage: often IMAGE_DIR|- MIB PAGES hot|moving RATE SECONDS [PROTECT]\n");
    return 2;
  }
  const int with = strcmp(argv[1], "-") != 0, moving = strcmp(argv[4], "moving") == 0;
  const uint64_t pages = (strtoul(argv[2], NULL, 0) << 20) / kPageBytes;
  const uint64_t each = strtoul(argv[3], NULL, 0);
  const uint64_t period_ns = (uint64_t)(1e9 / strtod(argv[5], NULL));
  const uint64_t span_ns = (uint64_t)(strtod(argv[6], NULL) * 1e9);
  if (with) {
    struct crattr attr = CRATTR_INIT;
    attr.image_dir = argv[1];
    attr.durable = CR_DURABLE_CRASH;
    attr.protect = argc == 8 ? argv[7] : NULL;
    if (crinit(&attr) != 0) die("crinit");
  }
  unsigned char *memory = crmalloc(pages * kPageBytes);
  if (memory == NULL) die("crmalloc");
  memset(memory, 1, pages * kPageBytes);
  uint64_t units = 0, x = 1, at = 0;
  long taken = 0, warm = with ? kWarmUp : 0;
  uint64_t begin = now_ns(), next = begin;
  while (warm > 0 || now_ns() - begin < span_ns) {
    next += period_ns;
    for (uint64_t i = 0; i < each; i++) {
      memory[at % pages * kPageBytes]++;
      at += moving ? 7 : 1; /* 7: neighbours would be one run */
    }
    if (!moving) at = 0;
    if (with && checkpoint() < 0) die("checkpoint");
    if (warm > 0) {
      if (warm <= 2 && argc == 8 && checkpoint_wait(CR_LEVEL_NODES) != 0) die("checkpoint_wait");
      if (--warm == 0) begin = next = now_ns(), units = 0, taken = 0;
      continue;
    }
    taken += with;
    while (now_ns() < next) {
      x = compute(x);
      units++;
    }
  }
  const double seconds = (double)(now_ns() - begin) / 1e9;
  uint64_t whole = 0;
  if (with) {
    struct crstatus st = {.size = sizeof st};
    if (checkpoint_wait(argc == 8 ? CR_LEVEL_NODES : CR_LEVEL_MEMORY) != 0) die("checkpoint_wait");
    if (crstatus(&st) == 0) whole = (argc == 8 ? st.safe_sequence : st.sequence) - kWarmUp;
  }
  printf("%llu %ld %llu %.6f %u\n", (unsigned long long)units, taken, (unsigned long long)whole,
         seconds, (unsigned)(x & 1));
  return 0;
}
