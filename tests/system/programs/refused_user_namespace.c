/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:process [0-9]+ .* has entered another namespace \(user\)
 *
 * A user namespace of its own, which only a process with one thread can enter; so can it under
 * crrun.
 */
#define _GNU_SOURCE
#include <sched.h>

#include "three_phase.h"

int main(void) {
  const int done = unshare(CLONE_NEWUSER);
  if (done != 0 && errno != EINVAL) test_skip("no user namespaces here");
  CHECK_EQ("unshare", 0, done);
  test_ready();
  test_wait();
  test_finish();
}
