/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles users=root,nobody,54321
 *
 * Descriptors of regular files: offset, access mode, O_APPEND, O_NONBLOCK, close-on-exec,
 * duplicates that share one offset, a second open of the same file that does not, and numbers
 * with gaps.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "three_phase.h"

struct descriptor {
  const char *what;
  int fd, status_flags, fd_flags;
  off_t offset;
};

static int open_at(int wanted, const char *path, int flags, off_t offset) {
  int fd = open(path, flags, 0644);
  REQUIRE(fd >= 0);
  REQUIRE(dup3(fd, wanted, flags & O_CLOEXEC) == wanted);
  close(fd);
  REQUIRE(lseek(wanted, offset, SEEK_SET) == offset);
  return wanted;
}

static void make_file(const char *path) {
  static char content[10000];
  test_fill(content, sizeof content, 1);
  int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
  REQUIRE(fd >= 0 && write(fd, content, sizeof content) == (ssize_t)sizeof content);
  close(fd);
}

static struct descriptor descriptors[] = {
    {.what = "read-only, close-on-exec, fd 10", .fd = 10},
    {.what = "read-write, fd 100", .fd = 100},
    {.what = "write-only, nonblocking, fd 250", .fd = 250},
    {.what = "append, fd 11", .fd = 11},
    {.what = "duplicate of 100, fd 900", .fd = 900},
    {.what = "another open of the same file, fd 12", .fd = 12},
    {.what = "offset behind the end, fd 13", .fd = 13},
    {.what = "O_PATH, fd 14", .fd = 14},
};
enum { kDescriptors = sizeof descriptors / sizeof descriptors[0] };

static void observe(struct descriptor *d) {
  d->status_flags = fcntl(d->fd, F_GETFL);
  d->fd_flags = fcntl(d->fd, F_GETFD);
  d->offset = lseek(d->fd, 0, SEEK_CUR);
}

static void check_as_before(void) {
  char what[100];
  for (int i = 0; i < kDescriptors; i++) {
    const struct descriptor *before = &descriptors[i];
    struct descriptor now = *before;
    observe(&now);
    snprintf(what, sizeof what, "%s, status flags", before->what);
    CHECK_EQ(what, before->status_flags, now.status_flags);
    snprintf(what, sizeof what, "%s, descriptor flags", before->what);
    CHECK_EQ(what, before->fd_flags, now.fd_flags);
    snprintf(what, sizeof what, "%s, offset", before->what);
    CHECK_EQ(what, before->offset, now.offset);
  }
}

static void check_they_work(void) {
  unsigned char byte = 0;
  CHECK_EQ("read at fd 10", 1, read(10, &byte, 1));
  CHECK_EQ("byte read at fd 10", (unsigned char)test_pattern(1, 1234), byte);
  CHECK_EQ("write to read-only fd 10", -1, write(10, "x", 1));
  CHECK_EQ("write through fd 100", 5, write(100, "hello", 5));
  CHECK_EQ("offset of its duplicate", 505, lseek(900, 0, SEEK_CUR));
  CHECK_EQ("offset of the other open", 7, lseek(12, 0, SEEK_CUR));
  char hello[6] = "";
  CHECK_EQ("pread through the other open", 5, pread(12, hello, 5, 500));
  CHECK_STR("what was written", "hello", hello);
  CHECK_EQ("append", 3, write(11, "end", 3));
  struct stat st;
  CHECK_EQ("fstat", 0, fstat(11, &st));
  CHECK_EQ("size after the append", 10003, st.st_size);
  CHECK_EQ("write behind the end", 1, write(13, "z", 1));
  CHECK_EQ("fstat", 0, fstat(13, &st));
  CHECK_EQ("size after writing behind the end", 20001, st.st_size);
  CHECK_EQ("fd 101 is free", -1, fcntl(101, F_GETFD));
}

int main(void) {
  make_file("a.bin");
  make_file("b.bin");
  make_file("c.bin");
  open_at(10, "a.bin", O_RDONLY | O_CLOEXEC, 1234);
  open_at(100, "a.bin", O_RDWR, 500);
  open_at(250, "a.bin", O_WRONLY | O_NONBLOCK, 9000);
  open_at(11, "b.bin", O_WRONLY | O_APPEND, 0);
  REQUIRE(dup2(100, 900) == 900);
  open_at(12, "a.bin", O_RDONLY, 7);
  open_at(13, "c.bin", O_RDWR, 20000);
  int path_only = open("a.bin", O_PATH);
  REQUIRE(path_only >= 0 && dup2(path_only, 14) == 14);
  close(path_only);
  for (int i = 0; i < kDescriptors; i++) observe(&descriptors[i]);
  test_ready();
  test_wait();
  check_as_before();
  check_they_work();
  test_finish();
}
