/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Private anonymous mappings of every protection, with data: r, rw, rx, none (written first, then
 * protected), guard pages between writable pages, a hole left by munmap, and a move by mremap.
 * Content and protections must be as before, and a store into a guard page must still fault.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "three_phase.h"

enum { kPage = 4096, kPages = 16, kBytes = kPage * kPages };

static sigjmp_buf fault_return;
static void on_fault(int number) {
  (void)number;
  siglongjmp(fault_return, 1);
}
static int store_faults(volatile char *where) {
  if (sigsetjmp(fault_return, 1) != 0) return 1;
  *where = 1;
  return 0;
}
static int load_faults(volatile char *where) {
  if (sigsetjmp(fault_return, 1) != 0) return 1;
  (void)*where;
  return 0;
}

static char *map(size_t bytes) {
  char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(p != MAP_FAILED);
  return p;
}

/* The "rwxp" of the mapping that holds this address, from /proc/self/maps. */
static void protection_of(const void *address, char text[5]) {
  static char maps[1 << 20];
  strcpy(text, "gone");
  REQUIRE(test_read_file("/proc/thread-self/maps", maps, sizeof maps) > 0);
  for (char *line = strtok(maps, "\n"); line != NULL; line = strtok(NULL, "\n")) {
    unsigned long begin, end;
    char prot[5];
    if (sscanf(line, "%lx-%lx %4s", &begin, &end, prot) == 3 && (uintptr_t)address >= begin &&
        (uintptr_t)address < end)
      memcpy(text, prot, 5);
  }
}
static void check_protection(const char *what, const void *address, const char *expected) {
  char text[5];
  protection_of(address, text);
  CHECK_STR(what, expected, text);
}

int main(void) {
  struct sigaction action = {.sa_handler = on_fault};
  sigaction(SIGSEGV, &action, NULL);

  char *rw = map(kBytes), *r = map(kBytes), *rx = map(kBytes), *none = map(kBytes);
  test_fill(rw, kBytes, 1);
  test_fill(r, kBytes, 2);
  test_fill(rx, kBytes, 3);
  test_fill(none, kBytes, 4);
  REQUIRE(mprotect(r, kBytes, PROT_READ) == 0);
  REQUIRE(mprotect(rx, kBytes, PROT_READ | PROT_EXEC) == 0);
  REQUIRE(mprotect(none, kBytes, PROT_NONE) == 0);
  char *guarded = map(kBytes); /* every other page is a guard */
  test_fill(guarded, kBytes, 5);
  for (int i = 1; i < kPages; i += 2) REQUIRE(mprotect(guarded + i * kPage, kPage, PROT_NONE) == 0);
  char *holed = map(kBytes); /* the middle is unmapped */
  test_fill(holed, kBytes, 6);
  REQUIRE(munmap(holed + 4 * kPage, 8 * kPage) == 0);
  char *moved = map(kBytes);
  test_fill(moved, kBytes, 7);
  char *target = map(2 * kBytes);
  moved = mremap(moved, kBytes, 2 * kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  REQUIRE(moved == target);

  test_ready();
  test_wait();

  check_protection("rw mapping", rw, "rw-p");
  check_protection("r mapping", r, "r--p");
  check_protection("rx mapping", rx, "r-xp");
  check_protection("protected mapping", none, "---p");
  check_protection("guarded page", guarded + kPage, "---p");
  check_protection("page beside a guard", guarded + 2 * kPage, "rw-p");
  test_check_fill("rw mapping", rw, kBytes, 1);
  test_check_fill("r mapping", r, kBytes, 2);
  test_check_fill("rx mapping", rx, kBytes, 3);
  CHECK("store into the r mapping faults", store_faults(r));
  CHECK("store into the rx mapping faults", store_faults(rx));
  CHECK("load from the protected mapping faults", load_faults(none));
  for (int i = 1; i < kPages; i += 2)
    CHECK("load from a guard page faults", load_faults(guarded + i * kPage));
  CHECK("load from the unmapped hole faults", load_faults(holed + 6 * kPage));
  CHECK("mprotect", mprotect(none, kBytes, PROT_READ) == 0);
  test_check_fill("data behind PROT_NONE", none, kBytes, 4);
  CHECK("mprotect", mprotect(guarded, kBytes, PROT_READ) == 0);
  test_check_fill("data of the guarded mapping", guarded, kBytes, 5);
  char *whole = malloc(kBytes);
  test_fill(whole, kBytes, 6);
  CHECK_BYTES("before the hole", whole, holed, 4 * kPage);
  CHECK_BYTES("after the hole", whole + 12 * kPage, holed + 12 * kPage, 4 * kPage);
  test_check_fill("moved mapping", moved, kBytes, 7);
  for (int i = 0; i < kBytes; i += kPage) CHECK_EQ("grown part of it", 0, moved[kBytes + i]);
  memset(rw, 9, kBytes);
  CHECK_EQ("store after the wait", 9, rw[kBytes - 1]);
  CHECK_EQ("munmap after the wait", 0, munmap(moved, 2 * kBytes));
  test_finish();
}
