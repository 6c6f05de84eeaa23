/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback users=root,nobody
 *
 * restore() and files that were changed since the checkpoint, by their names and through open
 * descriptors: they are put back, in place, and where the process has to begin anew; and a thread
 * that writes all the time does not leave anything behind.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/stat.h>

#include "rollback.h"

enum { kRounds = 10 };
static int open_file;
static pthread_t writer;
static volatile int writes = 1;

static void put(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  close(fd);
}

static void expect(const char *path, const char *text) {
  char now[256] = "";
  test_read_file(path, now, sizeof now);
  CHECK_STR(path, text, now);
}

static void *write_on(void *unused) {
  (void)unused;
  char text[32];
  for (unsigned i = 0; writes; i++) {
    sprintf(text, "by the thread %u", i);
    put("noisy", text);
    put("noisy.new", text);
    REQUIRE(rename("noisy.new", "noisy") == 0);
    if (pwrite(open_file, text, 4, (off_t)(i % 3)) != 4) break;
  }
  return NULL;
}

int main(void) {
  rollback_begin();
  put("changed", "as it was");
  put("removed", "still there");
  put("moved", "to be moved");
  put("noisy", "quiet");
  put("open", "0123456789");
  open_file = open("open", O_RDWR);
  REQUIRE(open_file >= 0);
  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) CHECK_EQ("checkpoint()", CR_RESTORED, r);
  struct crstatus st = {.size = sizeof st};
  REQUIRE(crstatus(&st) == 0);
  /* After an even round the working directory had been changed: the process began anew. */
  if (round > 1 && round % 2 == 0) CHECK_STR("why not in place", "", st.rollback_reason);
  if (round > 1 && round % 2 == 1) CHECK("begun anew", strstr(st.rollback_reason, "directory"));
  expect("changed", "as it was");
  expect("removed", "still there");
  expect("moved", "to be moved");
  expect("noisy", "quiet");
  expect("open", "0123456789");
  CHECK_EQ("the new file", -1, access("new", F_OK));
  CHECK_EQ("the thread's new file", -1, access("noisy.new", F_OK));
  CHECK_EQ("the new directory", -1, access("directory", F_OK));
  if (round == kRounds || test_failures != 0) test_finish();
  put("changed", "otherwise");
  REQUIRE(unlink("removed") == 0 && rename("moved", "new") == 0 && mkdir("directory", 0755) == 0);
  REQUIRE(pwrite(open_file, "abc", 3, 4) == 3);
  writes = 1;
  if (round % 2 == 0) writes = 0; /* its paths would be others there */
  REQUIRE(pthread_create(&writer, NULL, write_on, NULL) == 0);
  usleep(3000);
  if (round % 2 == 0) REQUIRE(chdir("directory") == 0);
  rollback_now();
}
