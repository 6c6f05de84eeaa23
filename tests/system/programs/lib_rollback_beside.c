/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback users=root,nobody
 *
 * restore() and memory right behind the library's own: the kernel joins the two to one mapping. It
 * is mapped, protected and unmapped by the program all the same. If another library is in the way,
 * the program begins again, elsewhere.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/mman.h>

#include "rollback.h"

enum { kPage = 4096, kBytes = 2 * kPage, kMostStarts = 50 };
static char maps_then[kMapsBytes], maps_now[kMapsBytes], scratch[kMapsBytes];

/* The end of what is mapped at addr, as /proc/self/maps has it now. */
static uintptr_t end_of_mapping(uintptr_t addr, int *ret_has_file) {
  unsigned long start = 0, end = 0, inode = 0;
  char line[1024];
  FILE *f = fopen("/proc/self/maps", "re");
  REQUIRE(f != NULL);
  while (fgets(line, sizeof line, f) != NULL) {
    REQUIRE(sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) == 3);
    if (addr < end) break;
  }
  fclose(f);
  REQUIRE(start <= addr && addr < end);
  *ret_has_file = inode != 0;
  return end;
}

/* The end of the library: of its data that is not in its file. */
static unsigned char *find_place(void) {
  uintptr_t end = (uintptr_t)dlsym(RTLD_DEFAULT, "crinit");
  int has_file = 1;
  while (has_file) end = end_of_mapping(end, &has_file);
  return (unsigned char *)end;
}
static unsigned char *map_at(unsigned char *at) {
  return mmap(at, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
              -1, 0);
}

static void require_joined(unsigned char *at, uintptr_t end) {
  int has_file;
  REQUIRE(end_of_mapping((uintptr_t)at - 1, &has_file) == end);
}
static void check_back(unsigned char *at, uint64_t rollbacks) {
  rollback_read_maps(maps_now, scratch);
  rollback_check_maps(maps_then, maps_now);
  rollback_check_in_place(rollbacks);
  test_check_fill("beside the library", at, kPage, 1);
  if (test_failures != 0) test_finish();
}

int main(int argc, char **argv) {
  unsigned char *const at = find_place();
  unsigned char *const got = map_at(at);
  if (got != at) {
    const int starts = argc > 1 ? atoi(argv[1]) : 0;
    REQUIRE(starts < kMostStarts);
    char next[16];
    snprintf(next, sizeof next, "%d", starts + 1);
    execl("/proc/self/exe", argv[0], next, NULL);
    TEST_FAIL("exec: errno %d", errno);
    test_finish();
  }
  rollback_begin();
  REQUIRE(munmap(at + kPage, kPage) == 0);
  test_fill(at, kPage, 1);
  REQUIRE(checkpoint() == 0); /* it is tracked, and so joined */
  const uintptr_t end = (uintptr_t)at + kPage;
  require_joined(at, end);

  rollback_read_maps(maps_then, scratch);
  if (checkpoint() == 0) {
    REQUIRE(mremap(at, kPage, kBytes, 0) == at);
    test_fill(at, kBytes, 2);
    require_joined(at, end + kPage);
    rollback_now();
  }
  check_back(at, 1);

  REQUIRE(mprotect(at, kPage, PROT_READ) == 0);
  rollback_read_maps(maps_then, scratch);
  if (checkpoint() == 0) {
    REQUIRE(mprotect(at, kPage, PROT_READ | PROT_WRITE) == 0);
    test_fill(at, kPage, 2);
    require_joined(at, end);
    rollback_now();
  }
  check_back(at, 2);

  REQUIRE(mprotect(at, kPage, PROT_READ | PROT_WRITE) == 0);
  rollback_read_maps(maps_then, scratch);
  if (checkpoint() == 0) {
    require_joined(at, end);
    REQUIRE(munmap(at, kPage) == 0);
    rollback_now();
  }
  check_back(at, 3);
  test_finish();
}
