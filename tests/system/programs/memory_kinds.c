/* SPDX-License-Identifier: MIT */
/* crtest: mode=often,cycles kill=later children=yes track=auto,uffd,hash,hash-entries,all
 *
 * As memory_model, of kinds of memory that need care of their own: huge pages, shared anonymous
 * memory, memory without access, memory that was given up (MADV_FREE), mappings that grow, shrink,
 * change places or are cut in two, the stack, pages shared with a fork child that wrote to them.
 * All pages hold one of a few contents, so that what was there once comes back again and again: in
 * the same place, in another mapping, after it was dropped.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kPage = 4096, kMost = 64, kHugePages = 1024, kContents = 3, kRegions = 12 };
struct region {
  unsigned char *at;
  size_t pages;
  int shared, no_access;
  unsigned char tag[kMost];   /* 0: zeros */
  unsigned char freed[kMost]; /* given up: as the tag says, or zeros */
};
static struct region regions[kRegions];
static unsigned char *huge;
static unsigned char huge_tag[kHugePages];
static uint64_t state;

static uint64_t random_below(uint64_t n) { return test_pattern(78, state++) % n; }

static const size_t kPlaces[] = {0, 1000, kPage - 8};
static void mark(unsigned char *page, unsigned tag) {
  for (int i = 0; i < 3; i++) {
    const uint64_t word = tag == 0 ? 0 : test_pattern(tag, kPlaces[i]);
    memcpy(page + kPlaces[i], &word, sizeof word);
  }
}
static int holds(const unsigned char *page, unsigned tag) {
  for (int i = 0; i < 3; i++) {
    const uint64_t word = tag == 0 ? 0 : test_pattern(tag, kPlaces[i]);
    if (memcmp(page + kPlaces[i], &word, sizeof word) != 0) return 0;
  }
  return 1;
}
static void check_page(const char *what, const unsigned char *page, unsigned tag, int freed) {
  if (holds(page, tag) || (freed && holds(page, 0))) return;
  unsigned got = 0;
  while (got <= kContents && !holds(page, got)) got++;
  TEST_FAIL("%s, page %p, step %llu: expected content %u%s, got %u", what, (const void *)page,
            (unsigned long long)state, tag, freed ? " or 0" : "", got);
}
static void check_region(const struct region *r) {
  if (r->no_access) return;
  for (size_t p = 0; p < r->pages; p++)
    check_page(r->shared ? "shared" : "private", r->at + p * kPage, r->tag[p], r->freed[p]);
}
static void check_huge(size_t first, size_t count) {
  for (size_t p = first; p < first + count && p < kHugePages; p++)
    check_page("huge", huge + p * kPage, huge_tag[p], 0);
}
static void check_everything(void) {
  for (int i = 0; i < kRegions; i++) check_region(&regions[i]);
  check_huge(0, kHugePages);
}

static void map_region(struct region *r, unsigned char *at, size_t pages) {
  const int flags = (r->shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | (at ? MAP_FIXED : 0);
  void *got = mmap(at, pages * kPage, PROT_READ | PROT_WRITE, flags, -1, 0);
  REQUIRE(got != MAP_FAILED);
  r->at = got;
  r->pages = pages;
  r->no_access = 0;
  memset(r->tag, 0, sizeof r->tag);
  memset(r->freed, 0, sizeof r->freed);
}
static void allow(struct region *r) {
  if (!r->no_access) return;
  REQUIRE(mprotect(r->at, r->pages * kPage, PROT_READ | PROT_WRITE) == 0);
  r->no_access = 0;
  check_region(r);
}
static void store(struct region *r, size_t first, size_t count) {
  for (size_t p = first; p < first + count && p < r->pages; p++) {
    r->tag[p] = (unsigned char)random_below(kContents + 1);
    r->freed[p] = 0;
    mark(r->at + p * kPage, r->tag[p]);
  }
}
/* The same again: dropped, and then stored as it was. */
static void drop_and_store(struct region *r, size_t first, size_t count, int wait) {
  if (r->shared) return;
  if (first + count > r->pages) count = r->pages - first;
  REQUIRE(madvise(r->at + first * kPage, count * kPage, MADV_DONTNEED) == 0);
  memset(&r->freed[first], 0, count);
  if (wait) usleep(20000); /* a checkpoint without it */
  for (size_t p = first; p < first + count; p++)
    if (r->tag[p] != 0) mark(r->at + p * kPage, r->tag[p]);
}
static void give_up(struct region *r, size_t first, size_t count) {
  if (r->shared) return;
  if (first + count > r->pages) count = r->pages - first;
  REQUIRE(madvise(r->at + first * kPage, count * kPage, MADV_FREE) == 0);
  memset(&r->freed[first], 1, count);
}
/* A shared mapping that grows does not get more memory. */
static void resize(struct region *r) {
  const size_t pages = 1 + random_below(kMost);
  if (r->shared) return;
  void *got = mremap(r->at, r->pages * kPage, pages * kPage, MREMAP_MAYMOVE);
  if (got == MAP_FAILED) return; /* it lies over mappings that did not become one */
  for (size_t p = r->pages; p < pages; p++) r->tag[p] = r->freed[p] = 0;
  r->at = got;
  r->pages = pages;
}
/* Two mappings change places. */
static void swap(struct region *a, struct region *b) {
  if (a == b || a->pages != b->pages) return;
  const size_t bytes = a->pages * kPage;
  void *aside = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(aside != MAP_FAILED);
  const int move = MREMAP_MAYMOVE | MREMAP_FIXED;
  REQUIRE(mremap(a->at, bytes, bytes, move, aside) == aside);
  REQUIRE(mremap(b->at, bytes, bytes, move, a->at) == a->at);
  REQUIRE(mremap(aside, bytes, bytes, move, b->at) == b->at);
  const struct region was = *a;
  *a = *b;
  a->at = was.at;
  unsigned char *b_at = b->at;
  *b = was;
  b->at = b_at;
}
/* A hole in the middle, filled by a new mapping. */
static void cut(struct region *r) {
  if (r->shared || r->pages < 3 || r < &regions[4]) return; /* the first four change places */
  const size_t first = 1 + random_below(r->pages - 2);
  REQUIRE(munmap(r->at + first * kPage, kPage) == 0);
  REQUIRE(mmap(r->at + first * kPage, kPage, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
  r->tag[first] = r->freed[first] = 0;
}
/* The child writes to what it shares with us, and to shared memory; then we do. */
static void fork_and_store(struct region *r) {
  const unsigned char tag = (unsigned char)(1 + random_below(kContents));
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (size_t p = 0; p < r->pages; p++) mark(r->at + p * kPage, tag);
    _exit(0);
  }
  store(r, random_below(r->pages), 4);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child && status == 0);
  if (r->shared) { /* whose store was the last? */
    for (size_t p = 0; p < r->pages; p++) r->tag[p] = tag, mark(r->at + p * kPage, tag);
  }
}
static void change_huge(void) {
  const size_t first = random_below(kHugePages), count = 1 + random_below(40);
  const int drop = random_below(8) == 0;
  for (size_t p = first; p < first + count && p < kHugePages; p++) {
    huge_tag[p] = (unsigned char)(drop ? 0 : random_below(kContents + 1));
    if (!drop) mark(huge + p * kPage, huge_tag[p]);
  }
  const size_t end = first + count < kHugePages ? first + count : kHugePages;
  if (drop) REQUIRE(madvise(huge + first * kPage, (end - first) * kPage, MADV_DONTNEED) == 0);
  if (random_below(64) == 0) { /* all of it anew: huge pages again */
    REQUIRE(madvise(huge, kHugePages * kPage, MADV_DONTNEED) == 0);
    memset(huge_tag, 0, sizeof huge_tag);
    huge_tag[0] = huge_tag[512] = 1;
    mark(huge, 1);
    mark(huge + 512 * kPage, 1);
  }
  check_huge(first, count);
}
/* The stack grows; every frame has a page, looked at on the way back. */
__attribute__((noinline)) static void deep(unsigned levels, unsigned tag) {
  unsigned char page[kPage];
  mark(page, tag);
  __asm__ volatile("" ::"r"(page) : "memory");
  if (levels > 0)
    deep(levels - 1, tag % kContents + 1);
  else
    usleep(1000);
  check_page("stack", page, tag, 0);
}

static void step(void) {
  struct region *r = &regions[random_below(kRegions)];
  allow(r);
  check_region(r);
  const size_t first = random_below(r->pages), count = 1 + random_below(12);
  switch (random_below(20)) {
    case 0:
      give_up(r, first, count);
      break;
    case 1:
    case 2:
      drop_and_store(r, first, count, random_below(8) == 0);
      break;
    case 3:
      resize(r);
      break;
    case 4:
    case 5:
      swap(&regions[0], &regions[1 + random_below(3)]);
      break;
    case 6:
      cut(r);
      break;
    case 7:
      if (random_below(16) == 0) fork_and_store(r);
      break;
    case 8:
      REQUIRE(mprotect(r->at, r->pages * kPage, PROT_NONE) == 0);
      r->no_access = 1;
      break;
    case 9: /* another kind of mapping in the same place */
      if (r >= &regions[4]) {
        r->shared = !r->shared;
        map_region(r, r->at, r->pages);
        store(r, 0, r->pages);
      }
      break;
    case 10:
      if (random_below(8) == 0) deep((unsigned)random_below(200), 1);
      break;
    case 11:
    case 12:
    case 13:
      change_huge();
      break;
    default:
      store(r, first, count);
  }
}

int main(void) {
  unsigned char *room = mmap(NULL, (kHugePages + 512) * kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(room != MAP_FAILED);
  const uintptr_t align = 512 * kPage;
  huge = (unsigned char *)(((uintptr_t)room + align - 1) & ~(align - 1));
  (void)madvise(huge, kHugePages * kPage, MADV_HUGEPAGE); /* small pages where there are none */
  for (int i = 0; i < kRegions; i++) {
    regions[i].shared = i % 4 == 3 && i >= 4;
    map_region(&regions[i], NULL, i < 4 ? 24 : 1 + random_below(kMost));
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
