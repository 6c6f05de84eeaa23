/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * A call that the kernel refuses to processes with several threads: it fails for another reason
 * here, too, and must say so; checkpoints are taken afterwards as before.
 */
#define _GNU_SOURCE
#include <sched.h>

#include "three_phase.h"

int main(void) {
  CHECK_EQ("unshare of what there is not", -1, unshare(1));
  CHECK_EQ("its error", EINVAL, errno);
  CHECK_EQ("setns of no namespace", -1, setns(0, 0));
  test_ready();
  test_wait();
  CHECK_EQ("unshare again", -1, unshare(1));
  CHECK_EQ("its error", EINVAL, errno);
  test_finish();
}
