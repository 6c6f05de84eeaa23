/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The program closes every descriptor above stderr, again and again. It can still be checkpointed,
 * and it never sees a descriptor that it did not open.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <sys/syscall.h>

#include "three_phase.h"

static void close_all_above_stderr(void) {
  if (syscall(SYS_close_range, 3, ~0u, 0) == 0) return;
  for (int fd = 3; fd < 1024; fd++) close(fd); /* kernels before 5.9 */
}

static void check_table(const char *when) {
  DIR *directory = opendir("/proc/self/fd");
  if (directory == NULL) {
    TEST_FAIL("%s, expected /proc/self/fd to open, got errno %d", when, errno);
    return;
  }
  struct dirent *entry;
  while ((entry = readdir(directory)) != NULL) {
    if (entry->d_name[0] == '.') continue;
    int fd = atoi(entry->d_name);
    if (fd <= 2 || fd == dirfd(directory)) continue;
    char path[64], link[256];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(path, link, sizeof link - 1);
    link[length > 0 ? length : 0] = '\0';
    TEST_FAIL("%s, expected no descriptor but the standard ones, got %d -> %s", when, fd, link);
  }
  closedir(directory);
}

static void step(void) {
  check_table("while waiting");
  close_all_above_stderr();
  if (test_failures != 0) test_finish();
}

int main(void) {
  check_table("at the start");
  close_all_above_stderr();
  check_table("after closing");
  test_ready();
  test_wait_doing(step);
  check_table("at the end");
  int fd = open("/dev/null", O_RDONLY);
  CHECK_EQ("the first descriptor that is opened", 3, fd);
  test_finish();
}
