/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*signalfd
 *
 * A signalfd at descriptor 45: the checkpoint is refused by name, and signals still arrive there.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/signalfd.h>

#include "three_phase.h"

int main(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  REQUIRE(dup2(signalfd(-1, &set, SFD_NONBLOCK), 45) == 45);
  test_ready();
  test_wait();
  struct signalfd_siginfo info;
  CHECK_EQ("read before a signal", -1, read(45, &info, sizeof info));
  raise(SIGUSR1);
  CHECK_EQ("read after it", sizeof info, read(45, &info, sizeof info));
  CHECK_EQ("signal", SIGUSR1, info.ssi_signo);
  test_finish();
}
