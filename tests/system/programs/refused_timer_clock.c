/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:POSIX timer 0 is of the processor time of one of several threads
 *
 * A timer of the processor time of one of two threads: the kernel does not tell whose, so the
 * checkpoint is refused, and the timer stays.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>

#include "three_phase.h"

static int goes = 1;

static void *thread_main(void *argument) {
  while (__atomic_load_n(&goes, __ATOMIC_SEQ_CST)) usleep(1000);
  return argument;
}

int main(void) {
  timer_t timer;
  pthread_t thread;
  struct itimerspec t = {{0, 0}, {500, 0}};
  REQUIRE(timer_create(CLOCK_THREAD_CPUTIME_ID, NULL, &timer) == 0);
  REQUIRE(timer_settime(timer, 0, &t, NULL) == 0);
  REQUIRE(pthread_create(&thread, NULL, thread_main, NULL) == 0);
  test_ready();
  test_wait();
  CHECK_EQ("timer_gettime", 0, timer_gettime(timer, &t));
  CHECK_BETWEEN("time left", 400, 500, t.it_value.tv_sec);
  goes = 0;
  pthread_join(thread, NULL);
  test_finish();
}
