/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:process [0-9]+ .* its end by signal 10.*make it with SIGCHLD
 *
 * A child that was made to end with another signal than SIGCHLD.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "three_phase.h"

int main(void) {
  signal(SIGUSR1, SIG_IGN);
  const pid_t pid = (pid_t)syscall(SYS_clone, SIGUSR1, NULL, NULL, NULL, NULL);
  REQUIRE(pid >= 0);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  usleep(20000);
  test_ready();
  test_wait();
  kill(pid, SIGKILL);
  test_finish();
}
