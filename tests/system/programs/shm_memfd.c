/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live,often kill=later track=auto,hash
 *
 * memfds: name, flags, seals, size, holes, content and offset; shared by several descriptors and
 * mappings, or mapped and closed.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>

#include "three_phase.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#define MFD_NOEXEC_SEAL 0x8U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif
enum { kPage = 4096, kBytes = 20 * kPage + 17 };

static volatile uint64_t count, *shared_count;
static void step(void) {
  count++;
  *shared_count = count;
}

static int make(const char *name, unsigned flags, int number, uint64_t seed) {
  static char content[kBytes];
  int fd = memfd_create(name, flags);
  REQUIRE(fd >= 0);
  test_fill(content, kBytes, seed);
  REQUIRE(write(fd, content, kBytes) == kBytes);
  REQUIRE(dup3(fd, number, (flags & MFD_CLOEXEC) != 0 ? O_CLOEXEC : 0) == number);
  close(fd);
  return number;
}

static void *map(int fd, int prot, int flags, off_t at) {
  void *p = mmap(NULL, 8 * kPage, prot, flags, fd, at);
  REQUIRE(p != MAP_FAILED);
  return p;
}

static void check_link(int fd, const char *expected) {
  char path[64], text[256] = "";
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  CHECK("readlink", readlink(path, text, sizeof text - 1) > 0);
  CHECK_STR("name", expected, text);
}

static void check_content(const char *what, int fd, uint64_t seed) {
  static char content[kBytes + 1];
  CHECK_EQ(what, kBytes, pread(fd, content, sizeof content, 0));
  test_check_fill(what, content, kBytes, seed);
}

int main(void) {
  const int rw = PROT_READ | PROT_WRITE;
  int plain = make("plain name", 0, 40, 1);
  char dup_path[64];
  int same = dup(plain);
  REQUIRE(lseek(plain, 77, SEEK_SET) == 77);
  snprintf(dup_path, sizeof dup_path, "/proc/self/fd/%d", plain);
  int reading = open(dup_path, O_RDONLY | O_CLOEXEC);
  REQUIRE(same >= 0 && reading >= 0 && lseek(reading, 5, SEEK_SET) == 5);
  char *a = map(plain, rw, MAP_SHARED, 0), *b = map(plain, rw, MAP_SHARED, 4 * kPage);
  char *own = map(plain, rw, MAP_PRIVATE, 0);
  own[kPage] = 'o';

  int sealed = make("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING, 42, 2);
  REQUIRE(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) ==
          0);
  const char *sealed_map = mmap(NULL, kPage, PROT_READ, MAP_PRIVATE, sealed, 0);
  REQUIRE(sealed_map != MAP_FAILED);

  int future = make("future", MFD_ALLOW_SEALING, 43, 3);
  char *before = map(future, rw, MAP_SHARED, 0);
  REQUIRE(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK) == 0);
  char *after = map(future, PROT_READ, MAP_SHARED, 0);

  int noexec = memfd_create("noexec", MFD_NOEXEC_SEAL);
  if (noexec < 0) noexec = memfd_create("noexec", 0);
  const int noexec_seals = fcntl(noexec, F_GET_SEALS);
  struct stat noexec_stat;
  REQUIRE(fstat(noexec, &noexec_stat) == 0);

  int sparse = memfd_create("sparse", 0);
  REQUIRE(sparse >= 0 && ftruncate(sparse, (off_t)1 << 40) == 0);
  REQUIRE(pwrite(sparse, "far", 3, ((off_t)1 << 39) + 5) == 3);

  int closed = make("closed", 0, 44, 4);
  char *left = map(closed, rw, MAP_SHARED, 0), *twin = map(closed, PROT_READ, MAP_SHARED, kPage);
  close(closed);
  shared_count = (volatile uint64_t *)left;
  *shared_count = 0;
  test_ready();
  test_wait_doing(step);

  CHECK_BETWEEN("counter", (long long)count - 1, (long long)count, (long long)*shared_count);
  check_link(plain, "/memfd:plain name (deleted)");
  CHECK_EQ("flags", 0, fcntl(plain, F_GETFD));
  CHECK_EQ("seals", F_SEAL_SEAL, fcntl(plain, F_GET_SEALS));
  CHECK_EQ("offset", 77, lseek(plain, 0, SEEK_CUR));
  check_content("plain", plain, 1);
  CHECK_EQ("offset of the other description", 5, lseek(reading, 0, SEEK_CUR));
  CHECK_EQ("access of the other description", O_RDONLY, fcntl(reading, F_GETFL) & O_ACCMODE);
  CHECK_EQ("access", O_RDWR, fcntl(plain, F_GETFL) & O_ACCMODE);
  CHECK_EQ("moved by one", 99, lseek(same, 99, SEEK_SET));
  CHECK_EQ("and the other", 99, lseek(plain, 0, SEEK_CUR));
  a[5 * kPage] = 'A';
  CHECK_EQ("second mapping", 'A', b[kPage]);
  CHECK_EQ("pwrite", 1, pwrite(same, "B", 1, 5 * kPage + 1));
  CHECK_EQ("in memory", 'B', a[5 * kPage + 1]);
  char byte = 0;
  CHECK_EQ("pread", 1, pread(reading, &byte, 1, 5 * kPage));
  CHECK_EQ("through the third description", 'A', byte);
  CHECK_EQ("private page", 'o', own[kPage]);
  CHECK_EQ("clean private page", 'A', own[5 * kPage]);
  CHECK_EQ("dropped", 0, madvise(own + kPage, kPage, MADV_DONTNEED));
  CHECK_EQ("the memfd's again", (char)test_pattern(1, kPage), own[kPage]);

  CHECK_EQ("flags of the sealed one", FD_CLOEXEC, fcntl(sealed, F_GETFD));
  CHECK_EQ("its seals", F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
           fcntl(sealed, F_GET_SEALS));
  check_content("sealed", sealed, 2);
  test_check_fill("sealed, in memory", sealed_map, kPage, 2);
  CHECK("no write", pwrite(sealed, "x", 1, 0) < 0 && errno == EPERM);

  CHECK_EQ("future seals", F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK, fcntl(future, F_GET_SEALS));
  before[3] = 'F';
  CHECK_EQ("written by the older mapping", 'F', after[3]);
  CHECK("not by the newer", mprotect(after, kPage, rw) < 0 && errno == EACCES);
  CHECK("nor by a new one", mmap(NULL, kPage, rw, MAP_SHARED, future, 0) == MAP_FAILED);

  CHECK_EQ("seals against execution", noexec_seals, fcntl(noexec, F_GET_SEALS));
  struct stat st;
  CHECK_EQ("mode", 0, fstat(noexec, &st) | (int)(st.st_mode ^ noexec_stat.st_mode));

  char far[4] = "";
  CHECK_EQ("size of the sparse one", 0, fstat(sparse, &st) | (st.st_size != (off_t)1 << 40));
  CHECK_BETWEEN("its blocks", 1, 64, st.st_blocks);
  CHECK_EQ("far away", 3, pread(sparse, far, 3, ((off_t)1 << 39) + 5));
  CHECK_STR("content", "far", far);

  left[2 * kPage] = 'L';
  CHECK_EQ("one memory without a descriptor", 'L', twin[kPage]);
  CHECK_EQ("content", (char)test_pattern(4, 3 * kPage), left[3 * kPage]);
  test_finish();
}
