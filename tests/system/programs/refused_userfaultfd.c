/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:fd [0-9]+ .*: a userfaultfd cannot be saved yet; close it
 *
 * A userfaultfd without a plug-in that claims it.
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#include "three_phase.h"

int main(void) {
  if (syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) < 0)
    test_skip("userfaultfd is not allowed here");
  test_ready();
  test_wait();
  test_finish();
}
