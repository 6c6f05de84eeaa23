/* SPDX-License-Identifier: MIT */
/*
 * A workload of clock_test.py: takes checkpoints all the time, most of them by the quick path. The
 * clock may never be earlier than before the checkpoint, in a restored process neither.
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>

#include "three_phase.h"

static long long clock_now(int clock) {
  struct timespec t;
  REQUIRE(clock_gettime(clock, &t) == 0);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(void) {
  static volatile int restored, quick;
  const long long kMost = 1500000000ll;
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  if (crinit(NULL) != 0) return 1;
  test_ready();
  while (!test_poll()) {
    const long long monotonic = clock_now(CLOCK_MONOTONIC), boot = clock_now(CLOCK_BOOTTIME);
    const int r = checkpoint();
    CHECK("checkpoint", r >= 0);
    restored += r == CR_RESTORED;
    CHECK_BETWEEN("CLOCK_MONOTONIC afterwards", monotonic, monotonic + kMost,
                  clock_now(CLOCK_MONOTONIC));
    CHECK_BETWEEN("CLOCK_BOOTTIME afterwards", boot, boot + kMost, clock_now(CLOCK_BOOTTIME));
    REQUIRE(crstatus(&st) == 0);
    if (st.quick > 10) quick = 1; /* it counts anew after each restore */
  }
  REQUIRE(crstatus(&st) == 0);
  CHECK_EQ("restores", 3, restored);
  CHECK("checkpoints by the quick path", quick);
  CHECK_BETWEEN("nanoseconds until the newest was whole", 1, 5000000000ll, st.commit_ns);
  test_finish();
}
