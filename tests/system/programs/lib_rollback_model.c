/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody timeout=240
 *
 * Random changes of the memory map and of what is in it, checkpoints between them, more changes,
 * and restore(): every page must again hold what the table says, which comes back with it, and the
 * memory map must be the same. Stores, stores by the kernel, MADV_DONTNEED and MADV_FREE, mappings
 * made, replaced, moved, grown, shrunk, protected, unmapped, locked; private pages of a small and
 * of a large file; shared anonymous memory; brk up and down.
 */
#define _GNU_SOURCE
#include "memory_model.h"
#include "rollback.h"

enum { kRounds = 150 };
static char maps_then[kMapsBytes], maps_now[kMapsBytes], scratch[kMapsBytes];

/* Given up: until the kernel takes them the pages hold what they held, which a rollback must make
 * sure of. Here they are written again at once, or the region is dropped. */
static void give_up(struct region *r, size_t first, size_t count) {
  if (r->kind != kAnonymous) return;
  if (first + count > r->pages) count = r->pages - first;
  REQUIRE(madvise(r->at + first * kPage, count * kPage, MADV_FREE) == 0);
  if (random_below(2) == 0) {
    store(r, first, count);
  } else {
    drop(r, first, count);
  }
}
static void protect(struct region *r) {
  r->prot = random_below(2) == 0 ? PROT_READ : PROT_NONE;
  REQUIRE(mprotect(r->at, r->pages * kPage, r->prot) == 0);
}
static void resize(struct region *r) {
  if (r->kind == kShared) return;
  const size_t pages = 1 + random_below(kMost);
  void *got = mremap(r->at, r->pages * kPage, pages * kPage, MREMAP_MAYMOVE);
  REQUIRE(got != MAP_FAILED);
  r->at = got;
  for (size_t p = r->pages; p < pages; p++) r->tag[p] = 0;
  for (size_t p = pages; p < r->pages; p++) r->tag[p] = 0;
  r->pages = pages;
}
static void make_holes(struct region *r) {
  REQUIRE(munmap(r->at, r->pages * kPage) == 0);
  map_region(r, r->at, r->pages);
  if (r->kind == kAnonymous) store(r, r->pages / 2, 3);
}

static void step(void) {
  struct region *r = &regions[random_below(kRegions)];
  const size_t first = random_below(r->pages), count = 1 + random_below(12);
  check_region(r);
  if (r->prot != (PROT_READ | PROT_WRITE)) {
    r->prot = PROT_READ | PROT_WRITE;
    REQUIRE(mprotect(r->at, r->pages * kPage, r->prot) == 0);
  }
  munlock(r->at, r->pages * kPage); /* what follows is not allowed there */
  switch (random_below(20)) {
    case 0:
    case 1:
      drop(r, first, count);
      break;
    case 2:
      map_region(r, r->at, r->pages);
      break;
    case 3:
      move(r);
      break;
    case 4:
      protect(r);
      break;
    case 5:
      kernel_stores(r, first);
      break;
    case 6:
      REQUIRE(munmap(r->at, r->pages * kPage) == 0);
      map_region(r, NULL, 1 + random_below(kMost));
      break;
    case 7:
      change_brk();
      break;
    case 8: /* the page is there again, and nothing has been stored */
      drop(r, first, count);
      check_region(r);
      break;
    case 9:
      give_up(r, first, count);
      break;
    case 10:
      resize(r);
      break;
    case 11:
      make_holes(r);
      break;
    case 12:
      mlock(r->at, r->pages * kPage); /* may be too much */
      if (random_below(2) == 0) munlock(r->at, r->pages * kPage);
      break;
    default:
      store(r, first, count);
  }
}
static void steps(uint64_t n) {
  for (uint64_t i = 0; i < n && test_failures == 0; i++) step();
}

/* CRTEST_SEED=n takes other steps, CRTEST_ROUNDS=n so many rounds: to search for hours. */
static uint64_t number_of(const char *variable, uint64_t fallback) {
  const char *text = getenv(variable);
  return text != NULL ? strtoull(text, NULL, 10) : fallback;
}

static enum kind kind_of(int i) {
  return i % 4 == 3 ? kOfFile : i % 8 == 1 ? kOfLargeFile : i == 4 ? kShared : kAnonymous;
}

int main(void) {
  const uint64_t rounds = number_of("CRTEST_ROUNDS", kRounds), seed = number_of("CRTEST_SEED", 0);
  state = seed << 40;
  rollback_begin();
  large_fd = make_file("large.data", (size_t)20 << 20);
  make_regions(kind_of);
  while (test_failures == 0) {
    steps(40);
    rollback_read_maps(maps_then, scratch);
    const int r = checkpoint();
    const uint64_t round = rollback_count("rounds");
    if (r == CR_RESTORED) {
      rollback_read_maps(maps_now, scratch);
      rollback_check_maps(maps_then, maps_now);
      rollback_check_in_place(rollback_count("verified"));
    } else {
      CHECK_EQ("checkpoint()", 0, r);
    }
    check_everything();
    if (round >= rounds || test_failures != 0) break;
    state = (seed << 40) + round * 1000003; /* other steps than before the rollback */
    if (random_below(4) == 0) continue;
    steps(random_below(80));
    if (test_failures == 0) rollback_now();
  }
  test_finish();
}
