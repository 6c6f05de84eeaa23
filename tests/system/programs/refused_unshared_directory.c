/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:thread [0-9]+ has a working directory, root and umask of its own
 *
 * A thread whose working directory is not the process's.
 */
#include "shared_parts.h"

int main(void) {
  thread_that_unshares(CLONE_FS);
  test_ready();
  test_wait();
  test_finish();
}
