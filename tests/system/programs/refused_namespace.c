/* SPDX-License-Identifier: MIT */
/* crtest: users=root mode=refuse:thread [0-9]+ has entered another namespace \(uts\)
 *
 * A thread that has left the namespace it was started in.
 */
#define _GNU_SOURCE
#include <sched.h>

#include "three_phase.h"

int main(void) {
  REQUIRE(unshare(CLONE_NEWUTS) == 0);
  test_ready();
  test_wait();
  test_finish();
}
