/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A file that was renamed while open (and another one made under its old name): the descriptor
 * comes back on the renamed file.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sys/stat.h>

#include "three_phase.h"

int main(void) {
  int fd = open("old name", O_RDWR | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, "first ", 6) == 6);
  REQUIRE(mkdir("elsewhere", 0755) == 0 || errno == EEXIST);
  REQUIRE(rename("old name", "elsewhere/new name") == 0);
  int other = open("old name", O_RDWR | O_CREAT | O_TRUNC, 0644);
  REQUIRE(other >= 0 && write(other, "other", 5) == 5);
  close(other);
  struct stat before, after;
  REQUIRE(fstat(fd, &before) == 0);
  test_ready();
  test_wait();
  CHECK_EQ("fstat", 0, fstat(fd, &after));
  CHECK_EQ("inode", before.st_ino, after.st_ino);
  CHECK_EQ("write", 6, write(fd, "second", 6));
  char text[64];
  CHECK_EQ("length of the renamed file", 12,
           test_read_file("elsewhere/new name", text, sizeof text));
  CHECK_STR("content of the renamed file", "first second", text);
  test_read_file("old name", text, sizeof text);
  CHECK_STR("content of the file with the old name", "other", text);
  char link[PATH_MAX], path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(path, link, sizeof link - 1);
  link[length > 0 ? length : 0] = '\0';
  CHECK("path of the descriptor", strstr(link, "/elsewhere/new name") != NULL);
  test_finish();
}
