/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * A periodic ITIMER_REAL whose SIGALRM is blocked and pending: the kernel arms it anew only when
 * the signal is taken, so until then getitimer() shows its interval, but no time left. It must
 * still tick afterwards.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/time.h>

#include "three_phase.h"

enum { kIntervalUs = 20000 };
static volatile sig_atomic_t ticks;

static void on_tick(int number) {
  (void)number;
  ticks++;
}

static int is_pending(void) {
  sigset_t pending;
  return sigpending(&pending) == 0 && sigismember(&pending, SIGALRM);
}

int main(void) {
  struct sigaction action = {.sa_handler = on_tick};
  sigaction(SIGALRM, &action, NULL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  struct itimerval timer = {{0, kIntervalUs}, {0, kIntervalUs}}, after;
  REQUIRE(setitimer(ITIMER_REAL, &timer, NULL) == 0);
  while (!is_pending()) usleep(1000);
  test_ready();
  test_wait();
  getitimer(ITIMER_REAL, &after);
  CHECK_EQ("interval", kIntervalUs, after.it_interval.tv_usec);
  CHECK_EQ("SIGALRM is pending", 1, is_pending());
  CHECK_EQ("ticks while it is blocked", 0, ticks);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
  CHECK_EQ("ticks at once when it is not", 1, ticks);
  double give_up = test_now() + 20;
  while (ticks < 4 && test_now() < give_up) usleep(1000);
  CHECK_BETWEEN("ticks afterwards", 4, 1000000, ticks);
  test_finish();
}
