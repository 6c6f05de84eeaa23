/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:pidfd.* of a process outside of the session
 *
 * A pidfd of the process that started the session.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>

#include "three_phase.h"

int main(void) {
  REQUIRE(syscall(SYS_pidfd_open, getppid(), 0) >= 0);
  test_ready();
  test_wait();
  test_finish();
}
