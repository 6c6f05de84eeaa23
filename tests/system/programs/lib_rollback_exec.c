/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback users=root,nobody
 *
 * restore() that cannot be in place: while the new process is planned a thread of the old one goes
 * on making files. All of them are gone afterwards.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>

#include "rollback.h"

enum { kRounds = 4, kBytes = 64 << 20 };
static volatile int go;
static int here;

static void *make_files(void *arg) {
  while (!go) usleep(100);
  for (unsigned i = 0;; i++) {
    char name[32];
    snprintf(name, sizeof name, "new.%u", i);
    close(openat(here, name, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    usleep(200);
  }
  return arg;
}

static unsigned new_files(void) {
  unsigned n = 0;
  DIR *d = opendir(".");
  for (struct dirent *e; (e = readdir(d)) != NULL;) n += strncmp(e->d_name, "new.", 4) == 0;
  closedir(d);
  return n;
}

int main(void) {
  pthread_t t;
  rollback_begin();
  test_fill(malloc(kBytes), kBytes, 5); /* planning takes its time */
  here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  REQUIRE(mkdir("elsewhere", 0700) == 0);
  REQUIRE(pthread_create(&t, NULL, make_files, NULL) == 0);
  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  CHECK("checkpoint()", r >= 0);
  CHECK_EQ("files that were made since", 0, new_files());
  if (round == kRounds || test_failures != 0) test_finish();
  REQUIRE(chdir("elsewhere") == 0); /* not in place */
  go = 1;
  if (round % 2 == 0) usleep(20000); /* when it begins there are none yet, or some */
  rollback_now();
}
