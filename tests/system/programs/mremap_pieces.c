/* SPDX-License-Identifier: MIT */
/*
 * mremap_pieces.c - mremap over memory that the program mapped and moved piece by piece, while
 * checkpoints are taken: moved, grown, shrunk and put in a given place as without them.
 *
 * crtest: mode=often,cycles
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kPage = 4096, kPages = 64, kRoom = 256 };

static char *g_at, *g_aside;

static void *space(size_t pages) {
  void *p = mmap(NULL, pages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(p != MAP_FAILED);
  return p;
}

static void map(char *at, size_t pages) {
  REQUIRE(mmap(at, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
               -1, 0) == at);
}

static void check(const char *what, const char *at, size_t pages) {
  for (size_t i = 0; i < pages; i++) test_check_fill(what, at + i * kPage, kPage, i + 1);
}

/* A part goes away and comes back, another is made anew: pieces for the kernel, one for us. */
static void cut(uint64_t round) {
  const size_t off = 1 + round % 20, n = 1 + round % 30;
  const int how = MREMAP_MAYMOVE | MREMAP_FIXED;
  REQUIRE(mremap(g_at + off * kPage, n * kPage, n * kPage, how, g_aside) == g_aside);
  REQUIRE(mremap(g_aside, n * kPage, n * kPage, how, g_at + off * kPage) == g_at + off * kPage);
  REQUIRE(mmap(g_aside, kRoom * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
          g_aside);
  char *anew = g_at + (kPages - 5) * kPage;
  REQUIRE(munmap(anew, 3 * kPage) == 0);
  map(anew, 3);
  for (size_t i = kPages - 5; i < kPages - 2; i++) test_fill(g_at + i * kPage, kPage, i + 1);
}

static void use_all(uint64_t round) {
  cut(round);
  char *grown = mremap(g_at, kPages * kPage, 2 * kPages * kPage, MREMAP_MAYMOVE);
  REQUIRE(grown != MAP_FAILED);
  check("grown", grown, kPages);
  for (size_t i = kPages * kPage; i < 2 * kPages * kPage; i++) CHECK_EQ("new memory", 0, grown[i]);
  memset(grown + kPages * kPage, 7, kPages * kPage);
  REQUIRE(mremap(grown, 2 * kPages * kPage, kPages * kPage, 0) == grown);
  g_at = grown;
  cut(round + 7);
  char *place = space(kRoom);
  REQUIRE(mremap(g_at, kPages * kPage, kPages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place) ==
          place);
  REQUIRE(munmap(place + kPages * kPage, (kRoom - kPages) * kPage) == 0);
  g_at = place;
  check("moved", g_at, kPages);
  errno = 0;
  CHECK_EQ("over itself", 1,
           mremap(g_at, kPages * kPage, kPages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED,
                  g_at + kPage) == MAP_FAILED);
  CHECK_EQ("over itself", EINVAL, errno);
  REQUIRE(mprotect(g_at + 40 * kPage, kPage, PROT_READ) == 0);
  errno = 0;
  char *refused = mremap(g_at, kPages * kPage, 2 * kPages * kPage, MREMAP_MAYMOVE);
  CHECK_EQ("memory of two protections", 1, refused == MAP_FAILED);
  CHECK_EQ("memory of two protections", EFAULT, errno);
  REQUIRE(mprotect(g_at + 40 * kPage, kPage, PROT_READ | PROT_WRITE) == 0);
  check("afterwards", g_at, kPages);
}

int main(void) {
  g_aside = space(kRoom);
  g_at = space(kPages);
  map(g_at, kPages);
  for (size_t i = 0; i < kPages; i++) test_fill(g_at + i * kPage, kPage, i + 1);
  use_all(0);
  test_ready();
  for (uint64_t round = 1; !test_poll(); round++) use_all(round);
  check("at the end", g_at, kPages);
  test_finish();
}
