/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:thread [0-9]+ has descriptors of its own
 *
 * A thread with a table of descriptors of its own.
 */
#include "shared_parts.h"

int main(void) {
  thread_that_unshares(CLONE_FILES);
  test_ready();
  test_wait();
  test_finish();
}
