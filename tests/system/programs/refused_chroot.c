/* SPDX-License-Identifier: MIT */
/* crtest: users=root mode=refuse:the program called chroot
 *
 * A root directory of its own, which nobody could make again.
 */
#define _GNU_SOURCE
#include "three_phase.h"

int main(void) {
  test_ready();
  REQUIRE(chroot("/tmp") == 0);
  for (;;) { /* the runner's files are where they were, by this process's own root they are not */
    usleep(2000);
    unlink(test_file("CRTEST_PING", "ping") + strlen("/tmp"));
    if (access(test_file("CRTEST_GO", "go") + strlen("/tmp"), F_OK) == 0) break;
  }
  test_finish();
}
