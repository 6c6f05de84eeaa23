/* SPDX-License-Identifier: MIT */
/* crtest: users=root mode=refuse:process [0-9]+ .* has entered another namespace \(net\)
 *
 * A child that has left the network namespace before it is known to the agent.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

#include "three_phase.h"

int main(void) {
  int told[2];
  char byte;
  REQUIRE(pipe(told) == 0);
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWNET) != 0 || write(told[1], "u", 1) != 1) _exit(1);
    for (;;) pause();
  }
  REQUIRE(pid > 0 && read(told[0], &byte, 1) == 1);
  test_ready();
  test_wait();
  kill(pid, SIGKILL);
  test_finish();
}
