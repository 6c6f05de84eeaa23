/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody timeout=400
 *
 * A thousand rollbacks to one checkpoint, half of them right after it with nothing changed: each
 * costs what has changed, nothing piles up, the epoch rises, and the hooks run.
 */
#define _GNU_SOURCE
#include <dirent.h>

#include "rollback.h"

enum { kRounds = 1000, kPages = 4096 };
static unsigned char pages[kPages][4096];
static volatile int before_hooks, after_hooks, restored_hooks;
static void hook(void *arg) { ++*(volatile int *)arg; }

static int descriptors(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  REQUIRE(d != NULL);
  while (readdir(d) != NULL) n++;
  closedir(d);
  return n;
}
static long resident(void) {
  char text[256];
  REQUIRE(test_read_file("/proc/self/statm", text, sizeof text) > 0);
  long all, here;
  REQUIRE(sscanf(text, "%ld %ld", &all, &here) == 2);
  return here;
}

int main(void) {
  rollback_begin();
  REQUIRE(crhook(CR_HOOK_BEFORE_CHECKPOINT, hook, (void *)&before_hooks) == 0);
  REQUIRE(crhook(CR_HOOK_AFTER_CHECKPOINT, hook, (void *)&after_hooks) == 0);
  REQUIRE(crhook(CR_HOOK_AFTER_RESTORE, hook, (void *)&restored_hooks) == 0);
  for (int i = 0; i < kPages; i++) pages[i][i % 4096] = (unsigned char)(i % 255 + 1);
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  REQUIRE(crstatus(&st) == 0);
  const uint64_t epoch = st.epoch;
  const int open_now = descriptors();
  const long pages_now = resident();

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  CHECK_EQ("before-hooks", 1, before_hooks);
  CHECK_EQ("after-checkpoint hooks", round == 1, after_hooks);
  CHECK_EQ("after-restore hooks", round != 1, restored_hooks);
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
    REQUIRE(crstatus(&st) == 0);
    CHECK_EQ("epoch", epoch + round - 1, st.epoch);
  }
  for (int i = 0; i < kPages; i++) {
    if (pages[i][i % 4096] != i % 255 + 1) {
      TEST_FAIL("page %d, expected %d, got %d", i, i % 255 + 1, pages[i][i % 4096]);
      break;
    }
  }
  if (test_failures != 0) test_finish();
  if (round <= kRounds) {
    if (round % 2 == 0) {
      for (uint64_t i = 0; i < 40; i++) pages[(round * 97 + i * 31) % kPages][0]++;
      memset(pages[round % kPages], 0, 4096);
    }
    rollback_now();
  }
  CHECK_EQ("descriptors", open_now, descriptors());
  CHECK_BETWEEN("resident pages", 0, pages_now + 512, resident());
  test_finish();
}
