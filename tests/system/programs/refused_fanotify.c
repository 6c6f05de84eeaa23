/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:fd [0-9]+ .*: a fanotify group cannot be saved yet; close it
 *
 * A fanotify group.
 */
#define _GNU_SOURCE
#include <sys/fanotify.h>

#include "three_phase.h"

int main(void) {
  if (fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_REPORT_FID, O_RDONLY) < 0)
    test_skip("fanotify is not allowed here");
  test_ready();
  test_wait();
  test_finish();
}
