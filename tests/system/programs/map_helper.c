/* SPDX-License-Identifier: MIT */
/*
 * map_helper.c - a program whose files will lie elsewhere when it is restored, for
 * tests/system/files_test.py: it stands in the directory of its argument, has a file there open,
 * one mapped shared and one privately; and it asks for a variable of --env.
 * CR_BUILD: -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "three_phase.h"

static char got[256] = "not asked";

static void put(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  close(fd);
}

static const char *(*restore_env)(const char *name);

int main(int argc, char **argv) {
  REQUIRE(argc == 2 && chdir(argv[1]) == 0);
  /* Of the preload library: this program is not linked to the other. */
  restore_env = (const char *(*)(const char *))dlsym(RTLD_DEFAULT, "crrestore_env");
  REQUIRE(restore_env != NULL && restore_env("WHERE") == NULL);
  put("open", "0123456789");
  put("shared", "shared mapping");
  put("private", "private mapping");
  put("later", "then");
  int fd = open("open", O_RDWR), shared_fd = open("shared", O_RDWR),
      own = open("private", O_RDONLY);
  REQUIRE(fd >= 0 && lseek(fd, 4, SEEK_SET) == 4);
  char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
  char *private = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, own, 0);
  REQUIRE(shared != MAP_FAILED && private != MAP_FAILED);
  private[0] = 'P';
  close(own);
  test_ready();
  unsigned n = 0;
  const char *value = NULL;
  do {
    if (n++ == 0) usleep(50000); /* the checkpoint comes here */
    if (pwrite(fd, "x", 1, 0) != 1) TEST_FAIL("the open file");
    put("later", "now");
    usleep(2000);
    value = restore_env("WHERE");
  } while (value == NULL && !test_poll());
  if (value != NULL) snprintf(got, sizeof got, "%s", value);
  while (!test_poll()) usleep(2000);
  CHECK_STR("crrestore_env", "there=yes", got);
  CHECK("another name", restore_env("WHER") == NULL && restore_env("OTHER") != NULL);
  CHECK_STR("crrestore_env of the other", "", restore_env("OTHER"));
  CHECK("getenv", getenv("WHERE") == NULL);
  char path[4096], here[4096], link[64];
  REQUIRE(getcwd(here, sizeof here) != NULL);
  CHECK("the working directory", strstr(here, "/new/place") != NULL);
  sprintf(link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  path[length > 0 ? length : 0] = 0;
  CHECK("the open file", strstr(path, "/new/place/open") != NULL);
  CHECK_EQ("its offset", 4, lseek(fd, 0, SEEK_CUR));
  CHECK("the private mapping", memcmp(private, "Private mapping", 15) == 0);
  shared[0] = 'S';
  char text[64];
  test_read_file("shared", text, sizeof text);
  CHECK_STR("the shared mapping's file", "Shared mapping", text);
  test_finish();
}
