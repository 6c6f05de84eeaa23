/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live,often kill=later track=auto,uffd,hash,hash-entries,all
 *
 * Writable shared mappings of files: what is mapped is as it was at the checkpoint, also in the
 * file, whatever was written since. A counter in private memory and one in each file rise together
 * while it waits. Two mappings and a descriptor of one file stay one; so do a private mapping's
 * clean pages. What is not mapped is the file's business. A file without a name stays one.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kPage = 4096, kPages = 40, kBytes = kPages * kPage - 100 };

static volatile uint64_t count; /* private */
static volatile uint64_t *in_file, *in_unnamed;

static void step(void) {
  count++;
  *in_file = count;
  *in_unnamed = count;
}

static int make(const char *name, uint64_t seed) {
  static char content[kBytes];
  int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0640);
  test_fill(content, kBytes, seed);
  REQUIRE(fd >= 0 && write(fd, content, kBytes) == kBytes);
  return fd;
}

/* The checkpoint may have been between two stores. */
static void check_counter(const char *what, uint64_t got) {
  CHECK_BETWEEN(what, (long long)count - 1, (long long)count, (long long)got);
}

int main(void) {
  int fd = make("named.bin", 1);
  char *whole = mmap(NULL, 16 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  char *other = mmap(NULL, 8 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 8 * kPage);
  char *reader = mmap(NULL, 4 * kPage, PROT_READ, MAP_SHARED, fd, 12 * kPage);
  char *private = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 12 * kPage);
  char *tail = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 38 * kPage);
  REQUIRE(whole != MAP_FAILED && other != MAP_FAILED && reader != MAP_FAILED);
  REQUIRE(private != MAP_FAILED && tail != MAP_FAILED);
  REQUIRE(lseek(fd, 1234, SEEK_SET) == 1234);
  private[kPage] = 'p';
  in_file = (volatile uint64_t *)(whole + 2 * kPage);
  int gone = make("gone.bin", 2);
  REQUIRE(unlink("gone.bin") == 0);
  char *unnamed = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, gone, 0);
  char *shadow = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, gone, 4 * kPage);
  REQUIRE(unnamed != MAP_FAILED && shadow != MAP_FAILED);
  shadow[0] ^= 1;
  in_unnamed = (volatile uint64_t *)(unnamed + 2 * kPage);
  test_ready();
  test_wait_doing(step);

  check_counter("counter in the file", *in_file);
  check_counter("counter in the unnamed file", *in_unnamed);
  struct stat st;
  CHECK_EQ("size of the file", 0, fstat(fd, &st) | (st.st_size - kBytes));
  CHECK_EQ("offset", 1234, lseek(fd, 0, SEEK_CUR));
  for (int i = 0; i < 2 * kPage; i++)
    if (whole[i] != (char)test_pattern(1, (uint64_t)i)) TEST_FAIL("byte %d of the file", i);
  other[5 * kPage] = 'x'; /* page 13 */
  CHECK_EQ("seen by the first mapping", 'x', whole[13 * kPage]);
  CHECK_EQ("seen by the reading one", 'x', reader[kPage]);
  CHECK_EQ("private page", 'p', private[kPage]);
  CHECK_EQ("written by the descriptor", 1, pwrite(fd, "y", 1, 14 * kPage));
  CHECK_EQ("seen in memory", 'y', other[6 * kPage]);
  CHECK_EQ("seen by a clean private page", 'y', private[2 * kPage]);
  CHECK_EQ("mapping may be made writable", 0, mprotect(reader, kPage, PROT_READ | PROT_WRITE));
  reader[0] = 'z';
  CHECK_EQ("written there", 'z', other[4 * kPage]);
  CHECK_EQ("last byte", (char)test_pattern(1, kBytes - 1), tail[kBytes - 1 - 38 * kPage]);
  CHECK_EQ("behind the end", 0, tail[kBytes - 38 * kPage]);
  char byte = 0;
  CHECK_EQ("not mapped", 1, pread(fd, &byte, 1, 30 * kPage));
  CHECK_EQ("byte not mapped", (char)test_pattern(1, 30 * kPage), byte);

  CHECK_EQ("links of the unnamed file", 0, fstat(gone, &st) | (int)st.st_nlink);
  CHECK_EQ("size of the unnamed file", kBytes, st.st_size);
  CHECK_EQ("mode of the unnamed file", 0640, st.st_mode & 07777);
  CHECK_EQ("pwrite", 1, pwrite(gone, "u", 1, 5 * kPage));
  CHECK_EQ("seen in its mapping", 'u', unnamed[5 * kPage]);
  CHECK_EQ("seen in its private mapping", 'u', shadow[kPage]);
  CHECK_EQ("private page of it", (char)(test_pattern(2, 4 * kPage) ^ 1), shadow[0]);
  CHECK_EQ("dropped", 0, madvise(shadow, kPage, MADV_DONTNEED));
  CHECK_EQ("the file's again", (char)test_pattern(2, 4 * kPage), shadow[0]);
  test_check_fill("rest of the unnamed file", unnamed, 2 * kPage, 2);
  test_finish();
}
