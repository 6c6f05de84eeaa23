/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles users=root
 *
 * A program that root started and that has become another user for good, as servers do: it must
 * not come back as root.
 */
#define _GNU_SOURCE
#include <grp.h>
#include <libgen.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "three_phase.h"

static volatile int go;

static void check_user(const char *who) {
  uid_t u[3];
  gid_t g[3], groups[4];
  REQUIRE(getresuid(&u[0], &u[1], &u[2]) == 0 && getresgid(&g[0], &g[1], &g[2]) == 0);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(who, 4321, u[i]);
    CHECK_EQ(who, 8765, g[i]);
  }
  CHECK_EQ("groups", 1, getgroups(4, groups));
  CHECK_EQ("group", 99, groups[0]);
  CHECK("root's files", open("/etc/shadow", O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
  CHECK("becoming root again", setuid(0) < 0 && errno == EPERM);
}

static void *worker(void *argument) {
  (void)argument;
  while (!go) usleep(1000);
  check_user("an id of the worker");
  return NULL;
}

int main(void) {
  const gid_t groups[1] = {99};
  char path[4096];
  pthread_t thread;
  snprintf(path, sizeof path, "%s", test_file("CRTEST_PING", "ping"));
  REQUIRE(chmod(dirname(path), 0777) == 0);
  REQUIRE(pthread_create(&thread, NULL, worker, NULL) == 0);
  REQUIRE(setgroups(1, groups) == 0);
  REQUIRE(setresgid(8765, 8765, 8765) == 0);
  REQUIRE(setresuid(4321, 4321, 4321) == 0);
  REQUIRE(prctl(PR_SET_DUMPABLE, 1) == 0);
  test_ready();
  test_wait();
  check_user("an id of main");
  CHECK_EQ("dumpable", 1, prctl(PR_GET_DUMPABLE));
  go = 1;
  pthread_join(thread, NULL);
  test_finish();
}
