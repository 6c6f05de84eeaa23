/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:process [0-9]+ .* share their working directory.*CLONE_FS
 *
 * Two processes with one working directory, root and umask.
 */
#include "shared_parts.h"

int main(void) {
  const pid_t pid = child_that_shares(CLONE_FS);
  usleep(20000);
  test_ready();
  test_wait();
  kill(pid, SIGKILL);
  test_finish();
}
