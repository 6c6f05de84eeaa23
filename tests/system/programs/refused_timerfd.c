/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*timerfd
 *
 * A timerfd at descriptor 45: the checkpoint is refused by name, and the timer goes on.
 */
#define _GNU_SOURCE
#include <sys/timerfd.h>

#include "three_phase.h"

int main(void) {
  REQUIRE(dup2(timerfd_create(CLOCK_MONOTONIC, 0), 45) == 45);
  struct itimerspec timer = {{0, 20000000}, {0, 20000000}};
  REQUIRE(timerfd_settime(45, 0, &timer, NULL) == 0);
  test_ready();
  test_wait();
  uint64_t ticks = 0;
  CHECK_EQ("read", 8, read(45, &ticks, 8));
  CHECK("ticks", ticks >= 1);
  CHECK_EQ("another read", 8, read(45, &ticks, 8));
  test_finish();
}
