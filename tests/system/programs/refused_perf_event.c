/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:fd [0-9]+ .*: a perf event cannot be saved yet; close it
 *
 * A counter of perf_event_open(2).
 */
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <sys/syscall.h>

#include "three_phase.h"

int main(void) {
  struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE,
                              .size = sizeof a,
                              .config = PERF_COUNT_SW_DUMMY,
                              .exclude_kernel = 1,
                              .exclude_hv = 1};
  if (syscall(SYS_perf_event_open, &a, 0, -1, -1, PERF_FLAG_FD_CLOEXEC) < 0)
    test_skip("perf_event_open is not allowed here");
  test_ready();
  test_wait();
  test_finish();
}
