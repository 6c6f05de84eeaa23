/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A directory that is open and half read: reading goes on where it was and gives each remaining
 * entry once; openat() and fchdir() through the descriptor work.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/syscall.h>

#include "three_phase.h"

enum { kFiles = 60 };
static int seen[kFiles];

struct linux_dirent64 {
  uint64_t d_ino;
  int64_t d_off;
  unsigned short d_reclen;
  unsigned char d_type;
  char d_name[];
};

/* Reads a few entries by a raw call with a small buffer, so that the position is the kernel's. */
static int read_some(int fd) {
  char buffer[256] __attribute__((aligned(8)));
  long length = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
  CHECK("getdents64", length >= 0);
  for (long at = 0; at < length;) {
    struct linux_dirent64 *entry = (struct linux_dirent64 *)(buffer + at);
    int number;
    if (sscanf(entry->d_name, "file-%d", &number) == 1) seen[number]++;
    at += entry->d_reclen;
  }
  return length > 0;
}

int main(void) {
  REQUIRE(mkdir("listed", 0755) == 0 || errno == EEXIST);
  char path[32];
  for (int i = 0; i < kFiles; i++) {
    snprintf(path, sizeof path, "listed/file-%d", i);
    close(open(path, O_CREAT | O_WRONLY, 0644));
  }
  int fd = open("listed", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  for (int i = 0; i < 4; i++) REQUIRE(read_some(fd));
  int flags = fcntl(fd, F_GETFL);
  test_ready();
  test_wait();
  CHECK_EQ("status flags", flags, fcntl(fd, F_GETFL));
  CHECK_EQ("close-on-exec", FD_CLOEXEC, fcntl(fd, F_GETFD));
  while (read_some(fd)) {
  }
  char what[64];
  for (int i = 0; i < kFiles; i++) {
    snprintf(what, sizeof what, "times that file-%d was listed", i);
    CHECK_EQ(what, 1, seen[i]);
  }
  int file = openat(fd, "file-7", O_RDONLY);
  CHECK("openat", file >= 0);
  CHECK_EQ("fchdir", 0, fchdir(fd));
  CHECK_EQ("access in it", 0, access("file-9", F_OK));
  test_finish();
}
