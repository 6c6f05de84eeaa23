/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * ITIMER_REAL, ITIMER_VIRTUAL and ITIMER_PROF are armed and fire periodically, before and after.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/time.h>

#include "three_phase.h"

static volatile sig_atomic_t real_ticks, virtual_ticks, prof_ticks;

static void on_tick(int number) {
  if (number == SIGALRM) real_ticks++;
  if (number == SIGVTALRM) virtual_ticks++;
  if (number == SIGPROF) prof_ticks++;
}

static void arm(int which, int number, long interval_us) {
  struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
  sigaction(number, &action, NULL);
  struct itimerval timer = {{0, interval_us}, {0, interval_us}};
  REQUIRE(setitimer(which, &timer, NULL) == 0);
}

static void check_armed(const char *what, int which, long interval_us) {
  struct itimerval timer;
  getitimer(which, &timer);
  CHECK_EQ(what, interval_us, timer.it_interval.tv_usec);
  CHECK_EQ(what, 0, timer.it_interval.tv_sec);
  CHECK_BETWEEN(what, 0, interval_us + 20000,
                timer.it_value.tv_sec * 1000000 + timer.it_value.tv_usec);
}

/* Burns CPU time until each timer has fired anew. */
static int all_fire_again(void) {
  real_ticks = virtual_ticks = prof_ticks = 0;
  double give_up = test_now() + 20;
  while (real_ticks < 3 || virtual_ticks < 3 || prof_ticks < 3)
    if (test_now() > give_up) return 0;
  return 1;
}

int main(void) {
  arm(ITIMER_REAL, SIGALRM, 50000);
  arm(ITIMER_VIRTUAL, SIGVTALRM, 30000);
  arm(ITIMER_PROF, SIGPROF, 40000);
  REQUIRE(all_fire_again());
  test_ready();
  test_wait();
  check_armed("ITIMER_REAL, microseconds", ITIMER_REAL, 50000);
  check_armed("ITIMER_VIRTUAL, microseconds", ITIMER_VIRTUAL, 30000);
  check_armed("ITIMER_PROF, microseconds", ITIMER_PROF, 40000);
  int fired = all_fire_again();
  CHECK_BETWEEN("ITIMER_REAL fired", 3, 1000000, real_ticks);
  CHECK_BETWEEN("ITIMER_VIRTUAL fired", 3, 1000000, virtual_ticks);
  CHECK_BETWEEN("ITIMER_PROF fired", 3, 1000000, prof_ticks);
  CHECK("all timers fired in time", fired);
  test_finish();
}
