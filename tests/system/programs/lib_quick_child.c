/* SPDX-License-Identifier: MIT */
/*
 * lib_quick_child.c - what a program executed by a child changes between two quick checkpoints.
 *
 * crtest: mode=rollback users=root,nobody timeout=120
 *
 * The child writes to the journal, and this process's memory says nothing of it: the next
 * checkpoint must be an ordinary one, or restore() would put the file back to what it was at the
 * last of those. Whoever compares must see it: this process (after a pause) or the agent (among
 * rapid checkpoints; there the journal's log grows without a child, which would take too long).
 */
#define _GNU_SOURCE
#include <dirent.h>

#include "put_expect.h"
#include "rollback.h"

enum { kWarm = 4, kRapid = 20 };
static volatile uint64_t counter;

static uint64_t quick_ones(void) {
  struct crstatus st = {.size = sizeof st};
  REQUIRE(checkpoint_wait(CR_LEVEL_MEMORY) == 0 && crstatus(&st) == 0);
  return st.quick;
}

/* Quick checkpoints are being taken when this returns. */
static void warm_up(void) {
  static _Alignas(4096) char page[4096];
  REQUIRE(crexclude(page, sizeof page) == 0 && crexclude(page, 0) == 0);
  for (int i = 0; i < 200; i++) {
    const uint64_t before = quick_ones();
    for (int k = 0; k < kWarm; k++) {
      counter++;
      CHECK("checkpoint", checkpoint() == 0);
    }
    if (quick_ones() >= before + kWarm) return;
  }
  TEST_FAIL("quick checkpoints were taken, expected yes, got no");
}

static char newest_log[4200];

static void find_newest_log(void) {
  const char *session = getenv("CR_SESSION");
  unsigned long newest = 0, number;
  REQUIRE(session != NULL);
  snprintf(newest_log, sizeof newest_log, "%s/files", session);
  DIR *d = opendir(newest_log);
  REQUIRE(d != NULL);
  for (struct dirent *e; (e = readdir(d)) != NULL;) {
    if (sscanf(e->d_name, "log.%lu", &number) == 1 && number > newest) newest = number;
  }
  closedir(d);
  snprintf(newest_log, sizeof newest_log, "%s/files/log.%lu", session, newest);
}

/* Among rapid checkpoints the log grows, as by a record of somebody else's. */
static void check_growing_log(void) {
  warm_up();
  const uint64_t before = quick_ones();
  find_newest_log();
  for (int k = 0; k < kRapid; k++) CHECK_EQ("a rapid checkpoint", 0, checkpoint());
  const int fd = rollback_open(newest_log, O_WRONLY | O_APPEND);
  REQUIRE(fd >= 0 && write(fd, "nonsense", 8) == 8);
  close(fd);
  CHECK_EQ("checkpoint", 0, checkpoint());
  CHECK_BETWEEN("quick ones, of which the last is none", 0, kRapid, quick_ones() - before);
}

int main(void) {
  rollback_begin();
  put("a", "OLD");
  put("b", "NEW");
  const int fd = open("open", O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* so there is a log */
  REQUIRE(fd >= 0 && write(fd, "text", 4) == 4 && lseek(fd, 0, SEEK_SET) == 0);
  usleep(100000);
  REQUIRE(checkpoint() == 0 && system("true") == 0); /* maps what system() and opendir() need */
  find_newest_log();
  warm_up();
  const uint64_t quick = quick_ones();
  REQUIRE(system("cp b a") == 0);
  const int r = checkpoint();
  expect("a", "NEW");
  if (rollback_count("count") == 1) {
    CHECK_EQ("checkpoint", 0, r);
    CHECK_EQ("quick ones after the child", quick, quick_ones());
    put("a", "LATER");
    rollback_now();
  }
  CHECK_EQ("restored", CR_RESTORED, r);
  for (int i = 0; i < 3; i++) check_growing_log();
  test_finish();
}
