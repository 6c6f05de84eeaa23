/* SPDX-License-Identifier: MIT */
/* memory_model.h - regions of memory and a table of what every page must hold, for the programs
 * that change both at random.
 * Invariant: the same `state` leads to the same steps; a failure prints it.
 */
#ifndef TESTS_SYSTEM_MEMORY_MODEL_H
#define TESTS_SYSTEM_MEMORY_MODEL_H

#include <sys/mman.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kRegions = 24, kMost = 48, kPage = 4096 };
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
static int file_fd, large_fd = -1, pipe_fds[2];
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
/* A region is one mapping, after a restore or rollback too: mremap would not move two. */
static void move(struct region *r) {
  const size_t bytes = r->pages * kPage;
  void *place = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(place != MAP_FAILED);
  void *got = mremap(r->at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  REQUIRE(got == place);
  r->at = got;
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

/* large_fd is opened before if there are any of it. */
static void make_regions(enum kind (*kind_of)(int)) {
  file_fd = make_file("model.data", kMost * kPage);
  REQUIRE(pipe(pipe_fds) == 0);
  brk_start = (unsigned char *)(((uintptr_t)sbrk(0) + kPage - 1) & ~(uintptr_t)(kPage - 1));
  for (int i = 0; i < kRegions; i++) {
    regions[i].kind = kind_of(i);
    map_region(&regions[i], NULL, 1 + random_below(kMost));
  }
}

#endif
