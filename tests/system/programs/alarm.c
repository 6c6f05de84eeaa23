/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A far alarm() is still set afterwards, with no more time left than before and no more gone by
 * than has passed, and a near one then fires.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "three_phase.h"

static volatile sig_atomic_t fired;
static void on_alarm(int number) {
  (void)number;
  fired = 1;
}

int main(void) {
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  time_t begin = time(NULL);
  alarm(1000);
  test_ready();
  test_wait();
  long passed = (long)(time(NULL) - begin);
  CHECK_BETWEEN("seconds left of the alarm", 1000 - passed - 2, 1000, alarm(1));
  double give_up = test_now() + 20;
  while (!fired && test_now() < give_up) usleep(1000);
  CHECK_EQ("the near alarm fired", 1, fired);
  test_finish();
}
