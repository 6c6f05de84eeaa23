/* SPDX-License-Identifier: MIT */
/* crtest: mode=lazy timeout=240
 *
 * Shared memory beside 64 MiB of private memory that comes while the program runs already: it is
 * there from the beginning, agrees with counters in private memory, and is one with what is open.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/shm.h>

#include "three_phase.h"

enum { kPage = 4096, kPrivate = 64 << 20, kShared = 8 << 20 };
static char *private, *memfd, *file, *sysv;
static int memfd_fd, file_fd;
static uint64_t count;

static void check(const char *what, const char *p, uint64_t seed) {
  uint64_t place = kPage + test_pattern(seed, count) % (kShared - kPage);
  CHECK_EQ(what, (char)test_pattern(seed, place), p[place]);
}

static void step(void) {
  count++;
  memcpy(private, &count, sizeof count);
  memcpy(memfd, &count, sizeof count);
  memcpy(sysv, &count, sizeof count);
  REQUIRE(pwrite(file_fd, &count, sizeof count, 0) == sizeof count);
  check("memfd", memfd, 2);
  check("file", file, 3);
  check("System V", sysv, 4);
  uint64_t far = kPage + test_pattern(9, count) % (kPrivate - kPage);
  CHECK_EQ("private", (char)(far * 7), private[far]);
}

int main(void) {
  const int rw = PROT_READ | PROT_WRITE;
  private = mmap(NULL, kPrivate, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memfd_fd = memfd_create("lazy", 0);
  file_fd = open("shared.bin", O_RDWR | O_CREAT | O_TRUNC, 0600);
  REQUIRE(ftruncate(memfd_fd, kShared) == 0 && ftruncate(file_fd, kShared) == 0);
  memfd = mmap(NULL, kShared, rw, MAP_SHARED, memfd_fd, 0);
  file = mmap(NULL, kShared, rw, MAP_SHARED, file_fd, 0);
  int id = shmget(IPC_PRIVATE, kShared, 0600);
  sysv = shmat(id, NULL, 0);
  REQUIRE(private != MAP_FAILED && memfd != MAP_FAILED && file != MAP_FAILED);
  REQUIRE(sysv != (char *)-1 && shmctl(id, IPC_RMID, NULL) == 0);
  for (int i = 0; i < kPrivate; i++) private[i] = (char)((uint64_t)i * 7);
  test_fill(memfd, kShared, 2);
  test_fill(file, kShared, 3);
  test_fill(sysv, kShared, 4);
  count = 0;
  test_ready();
  test_wait_doing(step);
  uint64_t got[2] = {0, 0};
  CHECK_EQ("pread of the memfd", sizeof got[0], pread(memfd_fd, &got[0], sizeof got[0], 0));
  memcpy(&got[1], file, sizeof got[1]);
  CHECK_EQ("counter in the memfd", count, got[0]);
  CHECK_EQ("counter in the file", count, got[1]);
  for (int i = kPage; i < kShared; i += 61) {
    if (memfd[i] != (char)test_pattern(2, (uint64_t)i)) TEST_FAIL("memfd, byte %d", i);
    if (file[i] != (char)test_pattern(3, (uint64_t)i)) TEST_FAIL("file, byte %d", i);
    if (sysv[i] != (char)test_pattern(4, (uint64_t)i)) TEST_FAIL("segment, byte %d", i);
    if (test_failures > 3) break;
  }
  test_finish();
}
