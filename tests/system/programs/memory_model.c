/* SPDX-License-Identifier: MIT */
/* crtest: mode=often,cycles kill=later users=root,nobody track=auto,uffd,hash,hash-entries,all
 *
 * Random changes of the memory map and of what is in it, against a table of what every page must
 * hold: stores, stores by the kernel, MADV_DONTNEED, mappings replaced in place, moved, grown,
 * protected and split, private pages of a file that become the file's again, brk up and down. With
 * mode=often checkpoints come all the time, so that each builds on the one before.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kRegions = 20, kMost = 48, kPage = 4096 };
struct region {
  unsigned char *at;
  size_t pages;
  int from_file;
  uint64_t tag[kMost]; /* what the page is marked with; 0: as it came */
};
static struct region regions[kRegions];
static unsigned char *brk_start;
static size_t brk_pages;
static uint64_t brk_tag[kMost];
static int file_fd, pipe_fds[2];
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
  return r->from_file ? 1000 + page : 0;
}
static void check_region(const struct region *r) {
  for (size_t p = 0; p < r->pages; p++)
    check_page(r->from_file ? "of a file" : "anonymous", r->at + p * kPage, r->tag[p],
               file_seed(r, p));
}
static void check_everything(void) {
  for (int i = 0; i < kRegions; i++) check_region(&regions[i]);
  for (size_t p = 0; p < brk_pages; p++) check_page("brk", brk_start + p * kPage, brk_tag[p], 0);
}

static void map_region(struct region *r, unsigned char *at, size_t pages) {
  const int flags = MAP_PRIVATE | (r->from_file ? 0 : MAP_ANONYMOUS) | (at != NULL ? MAP_FIXED : 0);
  void *got =
      mmap(at, pages * kPage, PROT_READ | PROT_WRITE, flags, r->from_file ? file_fd : -1, 0);
  REQUIRE(got != MAP_FAILED);
  r->at = got;
  r->pages = pages;
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
  if (first + count > r->pages) count = r->pages - first;
  REQUIRE(madvise(r->at + first * kPage, count * kPage, MADV_DONTNEED) == 0);
  memset(&r->tag[first], 0, count * sizeof r->tag[0]);
}
static void move(struct region *r) {
  const size_t bytes = r->pages * kPage;
  void *place = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(place != MAP_FAILED);
  void *got = mremap(r->at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  REQUIRE(got == place);
  r->at = got;
}
static void protect_and_back(struct region *r, size_t first, size_t count) {
  if (first + count > r->pages) count = r->pages - first;
  REQUIRE(mprotect(r->at + first * kPage, count * kPage, PROT_READ) == 0);
  check_region(r);
  REQUIRE(mprotect(r->at + first * kPage, count * kPage, PROT_READ | PROT_WRITE) == 0);
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
  switch (random_below(16)) {
    case 0:
      drop(r, first, count);
      break;
    case 1:
      map_region(r, r->at, r->pages);
      break;
    case 2:
      move(r);
      break;
    case 3:
      protect_and_back(r, first, count);
      break;
    case 4:
      kernel_stores(r, first);
      break;
    case 5:
      REQUIRE(munmap(r->at, r->pages * kPage) == 0);
      map_region(r, NULL, 1 + random_below(kMost));
      break;
    case 6:
      change_brk();
      break;
    case 7: /* the page is there again, and nothing has been stored */
      drop(r, first, count);
      check_region(r);
      break;
    default:
      store(r, first, count);
  }
}

int main(void) {
  file_fd = open("model.data", O_RDWR | O_CREAT | O_TRUNC, 0600);
  REQUIRE(file_fd >= 0);
  for (size_t p = 0; p < kMost; p++) {
    static unsigned char page[kPage];
    for (int i = 0; i < 3; i++) {
      const uint64_t word = test_pattern(1000 + p, kPlaces[i]);
      memcpy(page + kPlaces[i], &word, sizeof word);
    }
    REQUIRE(write(file_fd, page, kPage) == kPage);
  }
  const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
  REQUIRE(futimens(file_fd, long_ago) == 0);
  REQUIRE(pipe(pipe_fds) == 0);
  brk_start = (unsigned char *)(((uintptr_t)sbrk(0) + kPage - 1) & ~(uintptr_t)(kPage - 1));
  for (int i = 0; i < kRegions; i++) {
    regions[i].from_file = i % 4 == 3;
    map_region(&regions[i], NULL, 1 + random_below(kMost));
  }
  test_ready();
  for (uint64_t n = 0; test_failures == 0; n++) {
    step();
    if (n % 64 == 0) check_everything();
    if (n % 16 == 0) usleep(500);
    if (n % 256 == 0 && test_poll()) break;
  }
  check_everything();
  test_finish();
}
