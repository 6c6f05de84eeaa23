/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and shared memory: stores, writes by a descriptor, sizes, private pages, protection and
 * offsets are undone in place, in a file, a memfd, a file without a name, POSIX and System V
 * segments; memory without a descriptor too, for root. What cannot be undone (a seal, a mapping
 * that was moved) begins the program anew, and crstatus() says why; then all is there as well.
 */
#define _GNU_SOURCE
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>

#include "rollback.h"

enum { kPage = 4096, kBytes = 12 * kPage, kInPlace = 6, kRounds = 9 };

static char *map_of(int fd, int flags) {
  char *p = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  REQUIRE(p != MAP_FAILED);
  return p;
}

static char *filled(int fd, uint64_t seed) {
  REQUIRE(fd >= 0 && ftruncate(fd, kBytes) == 0);
  char *p = map_of(fd, MAP_SHARED);
  test_fill(p, kBytes - 2 * kPage, seed); /* the last two pages are holes */
  return p;
}

static void check(const char *what, const char *p, uint64_t seed) {
  test_check_fill(what, p, kBytes - 2 * kPage, seed);
  for (int i = kBytes - 2 * kPage; i < kBytes; i += 16)
    if (p[i] != 0) TEST_FAIL("%s: byte %d is not zero", what, i);
}

static void spoil(char *p, uint64_t round) {
  for (uint64_t i = round % 3; i < 12; i += 3) p[i * kPage + 100 * round]++;
}

static void check_rollbacks(uint64_t expected) {
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  REQUIRE(crstatus(&st) == 0);
  if (expected <= kInPlace) return rollback_check_in_place(expected);
  CHECK("why not in place", strstr(st.rollback_reason, "shared memory") != NULL ||
                                strstr(st.rollback_reason, "the mapping of") != NULL);
}

int main(void) {
  char name[64];
  rollback_begin();
  const int fd = open("shared.bin", O_RDWR | O_CREAT | O_TRUNC, 0600);
  char *file = filled(fd, 1), *own = map_of(fd, MAP_PRIVATE);
  const int mem = memfd_create("rolled back", MFD_ALLOW_SEALING);
  char *memfd = filled(mem, 2);
  const int gone = open("gone.bin", O_RDWR | O_CREAT | O_TRUNC, 0600);
  char *unnamed = filled(gone, 3);
  REQUIRE(unlink("gone.bin") == 0);
  snprintf(name, sizeof name, "/crtest-rollback-%d", (int)getpid());
  const int posix_fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  char *posix = filled(posix_fd, 4);
  const int id = shmget(IPC_PRIVATE, kBytes, 0600);
  char *sysv = shmat(id, NULL, 0);
  REQUIRE(sysv != (char *)-1 && shmctl(id, IPC_RMID, NULL) == 0);
  test_fill(sysv, kBytes - 2 * kPage, 5);
  char *closed = NULL;
  if (geteuid() == 0) {
    const int temporary = memfd_create("closed", 0);
    closed = filled(temporary, 6);
    close(temporary);
  }
  own[5 * kPage] = 'o';
  REQUIRE(lseek(mem, 321, SEEK_SET) == 321);

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    check_rollbacks(round - 1);
  }
  check("file", file, 1);
  check("memfd", memfd, 2);
  check("unnamed file", unnamed, 3);
  check("POSIX segment", posix, 4);
  check("System V segment", sysv, 5);
  if (closed != NULL) check("memfd that is closed", closed, 6);
  CHECK_EQ("private page", 'o', own[5 * kPage]);
  CHECK_EQ("clean private page", file[6 * kPage], own[6 * kPage]);
  struct stat st;
  CHECK_EQ("size", 0, fstat(mem, &st) | (st.st_size != kBytes));
  CHECK_EQ("size of the file", 0, fstat(fd, &st) | (st.st_size != kBytes));
  CHECK_EQ("offset", 321, lseek(mem, 0, SEEK_CUR));
  CHECK_EQ("seals", 0, fcntl(mem, F_GET_SEALS));
  CHECK_EQ("pwrite", 1, pwrite(mem, "w", 1, 7 * kPage));
  CHECK_EQ("one memory", 'w', memfd[7 * kPage]);
  if (round == kRounds || test_failures != 0) {
    shm_unlink(name);
    test_finish();
  }

  spoil(file, round);
  spoil(memfd, round);
  spoil(unnamed, round);
  spoil(posix, round);
  spoil(sysv, round);
  if (closed != NULL) spoil(closed, round);
  own[6 * kPage] = own[5 * kPage] = 's';
  REQUIRE(lseek(mem, 1, SEEK_SET) == 1 && pwrite(fd, "grown", 5, kBytes) == 5);
  REQUIRE(ftruncate(mem, 3 * kPage) == 0 && ftruncate(mem, 20 * kPage) == 0);
  REQUIRE(mprotect(posix, kPage, PROT_READ) == 0);
  if (round == kInPlace + 1) REQUIRE(fcntl(mem, F_ADD_SEALS, F_SEAL_GROW) == 0);
  if (round == kInPlace + 2) REQUIRE(munmap(unnamed, kBytes) == 0);
  rollback_now();
}
