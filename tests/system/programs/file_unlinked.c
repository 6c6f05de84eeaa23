/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Files that are open but have no name: one unlinked, one made with O_TMPFILE. Their content is
 * only in the image once the program is gone. Another file takes the old name meanwhile.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "three_phase.h"

enum { kBytes = 300000 };

static void build(int fd, uint64_t seed) {
  char *content = malloc(kBytes);
  test_fill(content, kBytes, seed);
  REQUIRE(write(fd, content, kBytes) == kBytes);
  REQUIRE(lseek(fd, 1000, SEEK_SET) == 1000);
  free(content);
}

static void verify(const char *name, int fd, uint64_t seed, int flags) {
  char what[80];
  snprintf(what, sizeof what, "%s, offset", name);
  CHECK_EQ(what, 1000, lseek(fd, 0, SEEK_CUR));
  struct stat st;
  CHECK_EQ("fstat", 0, fstat(fd, &st));
  snprintf(what, sizeof what, "%s, link count", name);
  CHECK_EQ(what, 0, st.st_nlink);
  snprintf(what, sizeof what, "%s, size", name);
  CHECK_EQ(what, kBytes, st.st_size);
  snprintf(what, sizeof what, "%s, mode", name);
  CHECK_EQ(what, 0600, st.st_mode & 0777);
  snprintf(what, sizeof what, "%s, status flags", name);
  CHECK_EQ(what, flags, fcntl(fd, F_GETFL));
  char *content = malloc(kBytes);
  CHECK_EQ("pread", kBytes, pread(fd, content, kBytes, 0));
  test_check_fill(name, content, kBytes, seed);
  free(content);
  snprintf(what, sizeof what, "%s, write", name);
  CHECK_EQ(what, 5, write(fd, "again", 5));
}

int main(void) {
  int unlinked = open("unlinked.bin", O_RDWR | O_CREAT | O_EXCL, 0600);
  REQUIRE(unlinked >= 0);
  build(unlinked, 1);
  REQUIRE(unlink("unlinked.bin") == 0);
  int usurper = open("unlinked.bin", O_WRONLY | O_CREAT, 0644);
  REQUIRE(usurper >= 0 && write(usurper, "usurper", 7) == 7);
  close(usurper);
  int nameless = open(".", O_RDWR | O_TMPFILE, 0600); /* -1 where the file system has none */
  if (nameless >= 0) build(nameless, 2);
  int unlinked_flags = fcntl(unlinked, F_GETFL), nameless_flags = fcntl(nameless, F_GETFL);
  test_ready();
  test_wait();
  verify("unlinked file", unlinked, 1, unlinked_flags);
  if (nameless >= 0) verify("O_TMPFILE file", nameless, 2, nameless_flags);
  char text[16];
  test_read_file("unlinked.bin", text, sizeof text);
  CHECK_STR("the file that took the name", "usurper", text);
  test_finish();
}
