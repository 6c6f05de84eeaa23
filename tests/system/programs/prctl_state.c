/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Per-process and per-thread attributes of prctl(2).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "three_phase.h"

static pthread_barrier_t built;
static volatile int go;

static void check_name(const char *expected) {
  char name[16] = "";
  prctl(PR_GET_NAME, name);
  CHECK_STR("thread name", expected, name);
}

static void *worker(void *argument) {
  (void)argument;
  prctl(PR_SET_NAME, "the worker");
  REQUIRE(prctl(PR_SET_TIMERSLACK, 77777) == 0);
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
  check_name("the worker");
  CHECK_EQ("timer slack of the worker", 77777, prctl(PR_GET_TIMERSLACK));
  return NULL;
}

int main(void) {
  pthread_barrier_init(&built, NULL, 2);
  pthread_t thread;
  pthread_create(&thread, NULL, worker, NULL);
  pthread_barrier_wait(&built);
  REQUIRE(prctl(PR_SET_NAME, "main, renamed!") == 0);
  REQUIRE(prctl(PR_GET_DUMPABLE) == 1);
  signal(SIGURG, SIG_IGN);
  REQUIRE(prctl(PR_SET_PDEATHSIG, SIGURG) == 0);
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_TIMERSLACK, 123456) == 0);
  REQUIRE(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  REQUIRE(prctl(PR_SET_KEEPCAPS, 1) == 0);
  test_ready();
  test_wait();
  check_name("main, renamed!");
  int value = 0;
  CHECK_EQ("dumpable", 1, prctl(PR_GET_DUMPABLE));
  prctl(PR_GET_PDEATHSIG, &value);
  CHECK_EQ("parent death signal", SIGURG, value);
  CHECK_EQ("no_new_privs", 1, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  CHECK_EQ("timer slack of main", 123456, prctl(PR_GET_TIMERSLACK));
  CHECK_EQ("THP disabled", 1, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
  value = 0;
  prctl(PR_GET_CHILD_SUBREAPER, &value);
  CHECK_EQ("child subreaper", 1, value);
  CHECK_EQ("keep capabilities", 1, prctl(PR_GET_KEEPCAPS));
  go = 1;
  pthread_join(thread, NULL);
  test_finish();
}
