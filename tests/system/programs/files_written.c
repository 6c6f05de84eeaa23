/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often kill=later
 *
 * Files that a program changes by path, over and over: it overwrites, truncates, appends, makes,
 * removes, renames and links them, closes them and opens others. After each restore all of them are
 * what they were at the checkpoint, the program's own count included.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kBytes = 3000 };
static unsigned steps; /* done; each file says to which step it belongs */
static FILE *open_all_the_time;

static void put(const char *path, const char *mode, unsigned step) {
  FILE *f = fopen(path, mode);
  REQUIRE(f != NULL);
  REQUIRE(fprintf(f, "%u\n", step) > 0);
  REQUIRE(fclose(f) == 0);
}

static unsigned number_in(const char *path) {
  char text[32] = "";
  if (test_read_file(path, text, sizeof text) <= 0) return ~0u;
  return (unsigned)strtoul(text, NULL, 10);
}

static void fill(const char *path, uint64_t seed) {
  static char content[kBytes];
  test_fill(content, sizeof content, seed);
  int fd = open(path, O_CREAT | O_WRONLY, 0644);
  REQUIRE(fd >= 0 && pwrite(fd, content, sizeof content, 0) == (ssize_t)sizeof content);
  close(fd);
}

static void check(const char *path, uint64_t seed) {
  static char content[kBytes + 1];
  CHECK_EQ(path, kBytes, test_read_file(path, content, sizeof content));
  test_check_fill(path, content, kBytes, seed);
}

static void name_of(char *name, const char *what, unsigned step) {
  sprintf(name, "%s.%u", what, step);
}

static void verify(void);

/* Everything is changed; what is there before each step is what the last one left. */
static void step(void) {
  char old[32], new[32];
  verify();
  const unsigned n = steps + 1;
  fill("overwritten", n);
  put("truncated", "w", n);
  put("appended", "a", n);
  put("fresh", "w", n); /* replaced by a rename */
  REQUIRE(rename("fresh", "replaced") == 0);
  name_of(old, "moving", steps);
  name_of(new, "moving", n);
  REQUIRE(rename(old, new) == 0);
  name_of(old, "dir", steps);
  name_of(new, "dir", n);
  REQUIRE(rename(old, new) == 0);
  sprintf(old, "dir.%u/in it", n);
  put(old, "w", n);
  sprintf(old, "dir.%u/only.%u", n, n);
  put(old, "w", n);
  sprintf(old, "dir.%u/only.%u", n, n - 1);
  REQUIRE(unlink(old) == 0);
  REQUIRE(unlink("link") == 0);
  name_of(new, "moving", n);
  REQUIRE(symlink(new, "link") == 0);
  REQUIRE(truncate("cut", n % 2 == 0 ? 100 : 10) == 0);
  REQUIRE(chmod("cut", n % 2 == 0 ? 0600 : 0640) == 0);
  name_of(new, "made", n);
  REQUIRE(mkdir(new, 0755) == 0);
  name_of(old, "made", steps);
  REQUIRE(rmdir(old) == 0);
  REQUIRE(unlink("hard a") == 0); /* hard b is the same file */
  put("hard b", "w", n);
  REQUIRE(link("hard b", "hard a") == 0);
  char temporary[] = "temporary.XXXXXX";
  int fd = mkstemp(temporary);
  REQUIRE(fd >= 0 && write(fd, &n, sizeof n) == sizeof n);
  close(fd);
  if (n % 3 == 0) REQUIRE(unlink(temporary) == 0);
  rewind(open_all_the_time);
  REQUIRE(fprintf(open_all_the_time, "%08u\n", n) == 9 && fflush(open_all_the_time) == 0);
  steps = n;
}

static void count_temporaries(void) {
  DIR *d = opendir(".");
  unsigned there = 0;
  for (struct dirent *e; (e = readdir(d)) != NULL;)
    there += strncmp(e->d_name, "temporary", 9) == 0;
  closedir(d);
  CHECK_EQ("temporary files", steps - steps / 3, there);
}

static void verify(void) {
  char name[32], link_text[32] = "";
  struct stat a, b;
  check("overwritten", steps);
  CHECK_EQ("the file that is truncated", steps, number_in("truncated"));
  static char text[1 << 20], expected[1 << 20];
  size_t n = 0;
  for (unsigned i = 1; i <= steps; i++) n += (size_t)sprintf(expected + n, "%u\n", i);
  expected[n] = 0;
  test_read_file("appended", text, sizeof text);
  CHECK_STR("the file that is appended to", expected, text);
  CHECK_EQ("fresh is gone", -1, access("fresh", F_OK));
  CHECK_EQ("the file that is replaced", steps, number_in("replaced"));
  name_of(name, "moving", steps);
  CHECK_EQ("the file that moves", 77, number_in(name));
  sprintf(name, "dir.%u/in it", steps);
  CHECK_EQ("the file in the directory that moves", steps, number_in(name));
  sprintf(name, "dir.%u/only.%u", steps, steps);
  CHECK_EQ("the new one in it", steps, number_in(name));
  sprintf(name, "dir.%u/only.%u", steps, steps - 1);
  CHECK_EQ("the removed one in it", -1, access(name, F_OK));
  sprintf(name, "dir.%u/only.%u", steps, steps + 1);
  CHECK_EQ("the one to come", -1, access(name, F_OK));
  name_of(name, "moving", steps + 1);
  CHECK_EQ("the next name", -1, access(name, F_OK));
  name_of(name, "moving", steps);
  CHECK("readlink", readlink("link", link_text, sizeof link_text - 1) > 0);
  CHECK_STR("the symbolic link", name, link_text);
  CHECK_EQ("stat", 0, stat("cut", &a));
  CHECK_EQ("the size that alternates", steps % 2 == 0 ? 100 : 10, a.st_size);
  CHECK_EQ("the mode that alternates", steps % 2 == 0 ? 0600 : 0640, a.st_mode & 0777);
  name_of(name, "made", steps);
  CHECK_EQ("the directory that was made", 0, access(name, F_OK));
  name_of(name, "made", steps + 1);
  CHECK_EQ("the directory that was not", -1, access(name, F_OK));
  CHECK_EQ("the file with two names", steps, number_in("hard a"));
  CHECK("stat of both", stat("hard a", &a) == 0 && stat("hard b", &b) == 0);
  CHECK_EQ("they are one file", a.st_ino, b.st_ino);
  count_temporaries();
  rewind(open_all_the_time);
  unsigned number = 0;
  CHECK_EQ("reading the open file", 1, fscanf(open_all_the_time, "%u", &number));
  CHECK_EQ("the open file", steps, number);
}

int main(void) {
  fill("overwritten", 0);
  put("truncated", "w", 0);
  close(open("appended", O_CREAT | O_WRONLY | O_TRUNC, 0644));
  put("replaced", "w", 0);
  put("moving.0", "w", 77);
  REQUIRE(mkdir("dir.0", 0755) == 0 && mkdir("made.0", 0755) == 0);
  put("dir.0/in it", "w", 0);
  put("dir.0/only.0", "w", 0);
  REQUIRE(symlink("moving.0", "link") == 0);
  put("cut", "w", 0);
  REQUIRE(truncate("cut", 100) == 0 && chmod("cut", 0600) == 0);
  put("hard a", "w", 0);
  REQUIRE(link("hard a", "hard b") == 0);
  open_all_the_time = fopen("open", "w+");
  REQUIRE(open_all_the_time != NULL && fprintf(open_all_the_time, "%08u\n", 0) == 9);
  fflush(open_all_the_time);
  test_ready();
  test_wait_doing(step);
  for (int i = 0; i < 10; i++) step();
  verify();
  test_finish();
}
