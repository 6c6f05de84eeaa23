/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles users=root,nobody
 *
 * Open while checkpoints are taken: the process's own directory in /proc, that of its descriptors
 * half read, that of a thread, a file below it, and one of them by O_PATH.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <stdarg.h>

#include "three_phase.h"

static void check_path(int fd, const char *format, ...) {
  char expected[128], link[64], got[PATH_MAX];
  va_list list;
  va_start(list, format);
  vsnprintf(expected, sizeof expected, format, list);
  va_end(list);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, got, sizeof got - 1);
  REQUIRE(n > 0);
  got[n] = 0;
  CHECK_STR("what is open", expected, got);
}

int main(void) {
  const int own = open("/proc/self", O_RDONLY | O_DIRECTORY);
  const int status = open("/proc/self/status", O_RDONLY);
  const int task = open("/proc/thread-self", O_RDONLY);
  const int path = open("/proc/self/fdinfo", O_PATH);
  DIR *fds = opendir("/proc/self/fd");
  REQUIRE(own >= 0 && status >= 0 && task >= 0 && path >= 0 && fds != NULL);
  /* One more than "." and "..", of those that are there as long as the program. */
  for (int i = 0; i < 3; i++) REQUIRE(readdir(fds) != NULL);
  const off_t at = lseek(dirfd(fds), 0, SEEK_CUR);
  test_ready();
  test_wait();
  /* Not getpid(): /proc may be that of an outer pid namespace after a restore. */
  char self[32] = "";
  REQUIRE(readlink("/proc/self", self, sizeof self - 1) > 0);
  const int pid = atoi(self);
  check_path(own, "/proc/%d", pid);
  check_path(status, "/proc/%d/status", pid);
  check_path(task, "/proc/%d/task/%d", pid, pid);
  check_path(path, "/proc/%d/fdinfo", pid);
  check_path(dirfd(fds), "/proc/%d/fd", pid);
  CHECK_EQ("position in the directory", at, lseek(dirfd(fds), 0, SEEK_CUR));
  CHECK("by the directory", faccessat(own, "status", R_OK, 0) == 0);
  CHECK("by that of the thread", faccessat(task, "comm", R_OK, 0) == 0);
  CHECK("by O_PATH", faccessat(path, "0", F_OK, 0) == 0);
  CHECK_EQ("the flags", O_PATH, fcntl(path, F_GETFL) & O_PATH);
  char text[4096], pid_line[32];
  const ssize_t n = pread(status, text, sizeof text - 1, 0);
  text[n > 0 ? n : 0] = 0;
  snprintf(pid_line, sizeof pid_line, "\nPid:\t%d\n", pid);
  CHECK("the status is this process's", strstr(text, pid_line) != NULL);
  rewinddir(fds);
  int entries = 0;
  while (readdir(fds) != NULL) entries++;
  CHECK_EQ("entries: ., .., 0-2 and five", 10, entries);
  test_finish();
}
