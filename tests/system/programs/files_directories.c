/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often kill=later
 *
 * Directories that a program puts aside and makes anew, rotates and exchanges, over and over, and
 * moves that fail, as rename() to another file system does: after each restore all files are those
 * of the checkpoint, and none of another directory.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <sys/stat.h>

#include "three_phase.h"

static unsigned steps;

static void put(const char *directory, const char *name, unsigned step) {
  char path[64], text[16];
  sprintf(path, "%s/%s", directory, name);
  const int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644), n = sprintf(text, "%u", step);
  REQUIRE(fd >= 0 && write(fd, text, (size_t)n) == n);
  close(fd);
}

static void check(const char *directory, const char *name, unsigned step) {
  char path[64], text[32] = "";
  sprintf(path, "%s/%s", directory, name);
  test_read_file(path, text, sizeof text);
  CHECK_EQ(path, step, (unsigned)strtoul(text[0] == 0 ? "999999" : text, NULL, 10));
}

static void make(const char *directory, unsigned step) {
  REQUIRE(mkdir(directory, 0755) == 0);
  put(directory, "f", step);
  put(directory, "g", step);
}

static void clear(const char *directory) {
  DIR *d = opendir(directory);
  REQUIRE(d != NULL);
  for (struct dirent *e; (e = readdir(d)) != NULL;) {
    if (e->d_name[0] != '.') REQUIRE(unlinkat(dirfd(d), e->d_name, 0) == 0);
  }
  closedir(d);
  REQUIRE(rmdir(directory) == 0);
}

static unsigned entries(const char *directory) {
  DIR *d = opendir(directory);
  unsigned n = 0;
  if (d == NULL) return 0;
  for (struct dirent *e; (e = readdir(d)) != NULL;) n += e->d_name[0] != '.';
  closedir(d);
  return n;
}

/* b0 is of the last step, b1 of the one before, b2 of that before; a and z change places. */
static void verify(void) {
  static const char *const kRotated[] = {"b0", "b1", "b2"};
  for (unsigned i = 0; i < 3; i++) {
    check(kRotated[i], "f", steps + 3 - i);
    check(kRotated[i], "g", i == 0 ? steps + 3 : steps + 4);
    CHECK_EQ(kRotated[i], 2, entries(kRotated[i]));
  }
  check("a", "f", steps % 2 == 0 ? 1 : 2);
  check("z", "f", steps % 2 == 0 ? 2 : 1);
  check("a", "g", steps);
  check("target", "f", steps);
  check("target", "g", 7);
  check("source", "f", 8);
  check("source", "g", 8);
  struct stat st;
  CHECK_EQ("stat", 0, lstat("place", &st));
  CHECK_EQ("a directory and a link take turns", steps % 2 == 0 ? S_IFDIR : S_IFLNK,
           st.st_mode & S_IFMT);
  CHECK_EQ("files in it", 2, entries("place/"));
  check("linked", "f", 9);
  DIR *d = opendir(".");
  for (struct dirent *e; (e = readdir(d)) != NULL;) {
    if (strstr(e->d_name, ".cr-") != NULL) TEST_FAIL("%s was left behind", e->d_name);
  }
  closedir(d);
}

static void step(void) {
  verify();
  const unsigned n = steps + 1;
  char elsewhere[64];
  clear("b2");
  REQUIRE(rename("b1", "b2") == 0);
  REQUIRE(rename("b0", "b1") == 0);
  make("b0", n + 3);
  put("b1", "g", n + 4);
  put("b2", "g", n + 4);
  REQUIRE(renameat2(AT_FDCWD, "a", AT_FDCWD, "z", RENAME_EXCHANGE) == 0);
  put("a", "g", n);
  CHECK_EQ("a directory that is not empty is not replaced", -1, rename("source", "target"));
  put("target", "f", n);
  sprintf(elsewhere, "/dev/shm/crtest-%d", (int)getpid());
  CHECK_EQ("a directory does not go to another file system", -1, rename("source", elsewhere));
  if (n % 2 == 0) {
    REQUIRE(unlink("place") == 0);
    make("place", n);
  } else {
    clear("place");
    REQUIRE(symlink("linked", "place") == 0);
  }
  steps = n;
}

int main(void) {
  make("b0", 3);
  make("b1", 2);
  make("b2", 1);
  put("b1", "g", 4);
  put("b2", "g", 4);
  make("a", 1);
  make("z", 2);
  put("a", "g", 0);
  make("source", 8);
  make("target", 7);
  put("target", "f", 0);
  make("place", 0);
  make("linked", 9);
  test_ready();
  test_wait_doing(step);
  for (int i = 0; i < 10; i++) step();
  verify();
  test_finish();
}
