/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Open /dev/null, zero, full, random and urandom, and stdin on /dev/null.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "three_phase.h"

static const struct {
  const char *path;
  int flags;
} kDevices[] = {
    {"/dev/null", O_RDWR},
    {"/dev/null", O_WRONLY | O_APPEND},
    {"/dev/zero", O_RDONLY | O_CLOEXEC},
    {"/dev/full", O_RDWR},
    {"/dev/random", O_RDONLY | O_NONBLOCK},
    {"/dev/urandom", O_RDONLY},
};
enum { kCount = sizeof kDevices / sizeof kDevices[0] };

int main(void) {
  int fds[kCount], status_flags[kCount];
  for (int i = 0; i < kCount; i++) {
    fds[i] = open(kDevices[i].path, kDevices[i].flags);
    REQUIRE(fds[i] >= 0);
    status_flags[i] = fcntl(fds[i], F_GETFL);
  }
  test_ready();
  test_wait();
  struct stat by_path, by_fd;
  for (int i = 0; i < kCount; i++) {
    CHECK_EQ("fstat", 0, fstat(fds[i], &by_fd));
    CHECK_EQ("stat", 0, stat(kDevices[i].path, &by_path));
    CHECK_EQ(kDevices[i].path, by_path.st_rdev, by_fd.st_rdev);
    CHECK_EQ("status flags", status_flags[i], fcntl(fds[i], F_GETFL));
    CHECK_EQ("close-on-exec", kDevices[i].flags & O_CLOEXEC ? FD_CLOEXEC : 0,
             fcntl(fds[i], F_GETFD));
  }
  char byte = 1;
  CHECK_EQ("read of /dev/null", 0, read(fds[0], &byte, 1));
  CHECK_EQ("write to /dev/null", 1, write(fds[1], "x", 1));
  CHECK_EQ("read of /dev/zero", 1, read(fds[2], &byte, 1));
  CHECK_EQ("byte of /dev/zero", 0, byte);
  CHECK_EQ("write to /dev/full", -1, write(fds[3], "x", 1));
  CHECK_EQ("errno of that", ENOSPC, errno);
  CHECK_EQ("read of /dev/urandom", 1, read(fds[5], &byte, 1));
  CHECK_EQ("read of stdin", 0, read(STDIN_FILENO, &byte, 1));
  test_finish();
}
