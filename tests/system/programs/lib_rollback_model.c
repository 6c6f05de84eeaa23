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
#include <sys/mman.h>
#include <sys/stat.h>

#include "rollback.h"

enum { kRegions = 24, kMost = 48, kPage = 4096, kRounds = 150 };
enum kind { kAnonymous, kOfFile, kOfLargeFile, kShared };
struct region {
  unsigned char *at;
  size_t pages;
  enum kind kind;
  int prot;            /* as it was left */
  uint64_t tag[kMost]; /* what the page is marked with; 0: as it came */
};
static struct region regions[kRegions];
static unsigned char *brk_start;
static size_t brk_pages;
static uint64_t brk_tag[kMost];
static int file_fd, large_fd, pipe_fds[2];
static char maps_then[kMapsBytes], maps_now[kMapsBytes], scratch[kMapsBytes];
static uint64_t state;

static uint64_t random_below(uint64_t n) { return test_pattern(77, state++) % n; }

static const size_t kPlaces[] = {0, 1000, kPage - 8};
static void mark(unsigned char *page, uint64_t tag) {
  for (int i = 0; i < 3; i++) memcpy(page + kPlaces[i], &tag, sizeof tag);
}
static void check_page(const char *what, const unsigned char *page, uint64_t tag, uint64_t from) {
  for (int i = 0; i < 3; i++) {
    uint64_t expected = tag != 0 ? tag : from != 0 ? test_pattern(from, kPlaces[i]) : 0, got;
    memcpy(&got, page + kPlaces[i], sizeof got);
    if (got != expected) {
      TEST_FAIL("%s, page %p, place %d, step %llu: expected %#llx, got %#llx", what,
                (const void *)page, i, (unsigned long long)state, (unsigned long long)expected,
                (unsigned long long)got);
      return;
    }
  }
}
static uint64_t file_seed(const struct region *r, size_t page) {
  return r->kind == kOfFile || r->kind == kOfLargeFile ? 1000 + page : 0;
}
static void check_region(const struct region *r) {
  static const char *const kNames[] = {"anonymous", "of a file", "of a large file", "shared"};
  if (r->prot == PROT_NONE) REQUIRE(mprotect(r->at, r->pages * kPage, PROT_READ) == 0);
  for (size_t p = 0; p < r->pages; p++)
    check_page(kNames[r->kind], r->at + p * kPage, r->tag[p], file_seed(r, p));
  if (r->prot == PROT_NONE) REQUIRE(mprotect(r->at, r->pages * kPage, PROT_NONE) == 0);
}
static void check_everything(void) {
  for (int i = 0; i < kRegions; i++) check_region(&regions[i]);
  for (size_t p = 0; p < brk_pages; p++) check_page("brk", brk_start + p * kPage, brk_tag[p], 0);
}

static void map_region(struct region *r, unsigned char *at, size_t pages) {
  const int flags = (r->kind == kShared ? MAP_SHARED : MAP_PRIVATE) |
                    (r->kind == kAnonymous || r->kind == kShared ? MAP_ANONYMOUS : 0) |
                    (at != NULL ? MAP_FIXED : 0);
  const int fd = r->kind == kOfFile ? file_fd : r->kind == kOfLargeFile ? large_fd : -1;
  void *got = mmap(at, pages * kPage, PROT_READ | PROT_WRITE, flags, fd, 0);
  REQUIRE(got != MAP_FAILED);
  r->at = got;
  r->pages = pages;
  r->prot = PROT_READ | PROT_WRITE;
  memset(r->tag, 0, sizeof r->tag);
}
static void store(struct region *r, size_t first, size_t count) {
  for (size_t p = first; p < first + count && p < r->pages; p++) {
    r->tag[p] = 1 + random_below(1u << 30);
    mark(r->at + p * kPage, r->tag[p]);
  }
}
/* Only two of the three places: the third is written by a store. */
static void kernel_stores(struct region *r, size_t p) {
  unsigned char bytes[2048];
  r->tag[p] = 1 + random_below(1u << 30);
  memcpy(bytes, r->at + p * kPage, sizeof bytes);
  memcpy(bytes + kPlaces[0], &r->tag[p], 8);
  memcpy(bytes + kPlaces[1], &r->tag[p], 8);
  REQUIRE(write(pipe_fds[1], bytes, sizeof bytes) == sizeof bytes);
  REQUIRE(read(pipe_fds[0], r->at + p * kPage, sizeof bytes) == sizeof bytes);
  mark(r->at + p * kPage, r->tag[p]);
}
static void drop(struct region *r, size_t first, size_t count) {
  if (r->kind == kShared) return; /* its pages stay in the object */
  if (first + count > r->pages) count = r->pages - first;
  REQUIRE(madvise(r->at + first * kPage, count * kPage, MADV_DONTNEED) == 0);
  memset(&r->tag[first], 0, count * sizeof r->tag[0]);
}
/* A region is one mapping, after a rollback too: mremap would not move two. */
static void move(struct region *r) {
  const size_t bytes = r->pages * kPage;
  void *place = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(place != MAP_FAILED);
  void *got = mremap(r->at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  REQUIRE(got == place);
  r->at = got;
}
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
static void change_brk(void) {
  const size_t pages = random_below(kMost);
  REQUIRE(brk(brk_start + pages * kPage) == 0);
  for (size_t p = pages; p < brk_pages; p++) brk_tag[p] = 0;
  brk_pages = pages;
  for (size_t p = 0; p < pages; p++) {
    if (random_below(3) != 0) continue;
    brk_tag[p] = 1 + random_below(1u << 30);
    mark(brk_start + p * kPage, brk_tag[p]);
  }
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

static int make_file(const char *name, size_t bytes) {
  const int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
  REQUIRE(fd >= 0);
  for (size_t p = 0; p < kMost; p++) {
    static unsigned char page[kPage];
    for (int i = 0; i < 3; i++) {
      const uint64_t word = test_pattern(1000 + p, kPlaces[i]);
      memcpy(page + kPlaces[i], &word, sizeof word);
    }
    REQUIRE(write(fd, page, kPage) == kPage);
  }
  REQUIRE(ftruncate(fd, (off_t)bytes) == 0);
  const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  REQUIRE(futimens(fd, long_ago) == 0);
  return fd;
}

/* CRTEST_SEED=n takes other steps, CRTEST_ROUNDS=n so many rounds: to search for hours. */
static uint64_t number_of(const char *variable, uint64_t fallback) {
  const char *text = getenv(variable);
  return text != NULL ? strtoull(text, NULL, 10) : fallback;
}

int main(void) {
  const uint64_t rounds = number_of("CRTEST_ROUNDS", kRounds), seed = number_of("CRTEST_SEED", 0);
  state = seed << 40;
  rollback_begin();
  file_fd = make_file("model.data", kMost * kPage);
  large_fd = make_file("large.data", (size_t)20 << 20);
  REQUIRE(pipe(pipe_fds) == 0);
  brk_start = (unsigned char *)(((uintptr_t)sbrk(0) + kPage - 1) & ~(uintptr_t)(kPage - 1));
  for (int i = 0; i < kRegions; i++) {
    regions[i].kind = i % 4 == 3   ? kOfFile
                      : i % 8 == 1 ? kOfLargeFile
                      : i == 4     ? kShared
                                   : kAnonymous;
    map_region(&regions[i], NULL, 1 + random_below(kMost));
  }
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
