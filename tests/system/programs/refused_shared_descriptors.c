/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:process [0-9]+ .* and process [0-9]+ .* share their descriptors .CLONE_FILES
 *
 * Two processes with one table of descriptors.
 */
#include "shared_parts.h"

int main(void) {
  const pid_t pid = child_that_shares(CLONE_FILES);
  usleep(20000);
  test_ready();
  test_wait();
  kill(pid, SIGKILL);
  test_finish();
}
