/* SPDX-License-Identifier: MIT */
/*
 * lib_checkpoint_wait.c - checkpoint() returns when the checkpoint is captured, checkpoint_wait()
 * when it is whole, or with the reason why it is not.
 *
 * crtest: mode=cycles kill=later
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kMany = 40 };

static uint64_t sequence(char *dir, size_t bytes) {
  struct crstatus st = {.size = sizeof st};
  if (crstatus(&st) != 0) return 0;
  if (dir != NULL) snprintf(dir, bytes, "%s", st.image_dir);
  return st.sequence;
}

static void expect_error(const char *what, int level, int error) {
  errno = 0;
  CHECK_EQ(what, -1, checkpoint_wait(level));
  CHECK_EQ(what, error, errno);
}

/* The buffer that the next checkpoint goes to cannot be opened: the program learns of it when it
 * asks, and the checkpoint after that is good. */
static void writing_fails(void) {
  char dir[4096], buffer[4200], aside[4200];
  const uint64_t before = sequence(dir, sizeof dir);
  snprintf(buffer, sizeof buffer, "%s/image.%d", dir, (int)(before % 2));
  snprintf(aside, sizeof aside, "%s/aside", dir);
  CHECK_EQ("rename", 0, rename(buffer, aside));
  CHECK_EQ("mkdir", 0, mkdir(buffer, 0700));
  CHECK_EQ("captured", 0, checkpoint());
  expect_error("not whole", CR_LEVEL_MEMORY, EISDIR);
  CHECK_EQ("crerror names the file", 1, strstr(crerror(), buffer) != NULL);
  CHECK_EQ("nothing newer is whole", before, sequence(NULL, 0));
  CHECK_EQ("rmdir", 0, rmdir(buffer));
  CHECK_EQ("rename back", 0, rename(aside, buffer));
  CHECK_EQ("captured again", 0, checkpoint());
  CHECK_EQ("and whole", 0, checkpoint_wait(CR_LEVEL_MEMORY));
  CHECK_EQ("sequence", before + 1, sequence(NULL, 0));
}

int main(void) {
  expect_error("no such level", 9, EINVAL);
  expect_error("negative level", -1, EINVAL);
  expect_error("neighbours", 2, ENOTSUP);
  expect_error("nothing was captured", CR_LEVEL_MEMORY, ENOENT);
  for (int i = 0; i < kMany; i++) CHECK_EQ("checkpoint", 0, checkpoint());
  CHECK_EQ("whole", 0, checkpoint_wait(CR_LEVEL_MEMORY));
  CHECK_EQ("durable", 0, checkpoint_wait(CR_LEVEL_DISK));
  CHECK_EQ("sequence", (uint64_t)kMany, sequence(NULL, 0));
  writing_fails();
  test_ready();
  test_wait();
  CHECK_EQ("what it came back from is whole", 0, checkpoint_wait(CR_LEVEL_MEMORY));
  test_finish();
}
