/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and what the program has made of itself: I/O priority, oom_score_adj, personality,
 * faulting time stamps and what becomes of memory errors are as they were at the checkpoint. What
 * cannot be put back in place begins anew: here a segment descriptor made since.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <linux/ioprio.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "rollback.h"

enum { kInPlace = 4 };
#define THEN_IO IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6)

static void set_oom_score(int score) {
  char text[16];
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  snprintf(text, sizeof text, "%d", score);
  REQUIRE(fd >= 0 && write(fd, text, strlen(text)) > 0);
  close(fd);
}
static int oom_score(void) {
  char text[16];
  REQUIRE(test_read_file("/proc/self/oom_score_adj", text, sizeof text) > 0);
  return atoi(text);
}

static void check(int score) {
  int tsc = 0;
  CHECK_EQ("I/O priority", THEN_IO, syscall(SYS_ioprio_get, 1, 0));
  CHECK_EQ("oom_score_adj", score, oom_score());
  CHECK_EQ("personality", ADDR_NO_RANDOMIZE, personality(0xffffffff));
  CHECK_EQ("memory errors", PR_MCE_KILL_EARLY, prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
  prctl(PR_GET_TSC, &tsc);
  CHECK_EQ("time stamps", PR_TSC_ENABLE, tsc);
}

static int make_descriptor(void) {
  struct user_desc d = {.entry_number = 3, .limit = 0xfff, .seg_32bit = 1};
  return syscall(SYS_modify_ldt, 0x11, &d, sizeof d) == 0;
}

int main(void) {
  rollback_begin();
  const int score = oom_score() + 50;
  set_oom_score(score);
  REQUIRE(syscall(SYS_ioprio_set, 1, 0, THEN_IO) == 0);
  REQUIRE(personality(ADDR_NO_RANDOMIZE) >= 0);
  REQUIRE(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
  const int r = checkpoint();
  REQUIRE(r >= 0);
  check(score);
  const uint64_t round = rollback_count("round");
  if (round <= kInPlace) {
    rollback_check_in_place(round - 1);
    set_oom_score(score + 25);
    REQUIRE(syscall(SYS_ioprio_set, 1, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)) == 0);
    REQUIRE(personality(0) >= 0);
    REQUIRE(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0) == 0);
    REQUIRE(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
    rollback_now();
  }
  if (round == kInPlace + 1 && make_descriptor()) rollback_now();
  if (round == kInPlace + 2) {
    struct crstatus st;
    memset(&st, 0, sizeof st);
    st.size = sizeof st;
    REQUIRE(crstatus(&st) == 0);
    CHECK_STR("why not in place", "the local descriptor table was changed", st.rollback_reason);
    uint64_t first = 0;
    CHECK_EQ("a descriptor made since", 0, syscall(SYS_modify_ldt, 0, &first, sizeof first));
  }
  test_finish();
}
