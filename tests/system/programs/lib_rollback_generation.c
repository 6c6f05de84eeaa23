/* SPDX-License-Identifier: MIT */
/*
 * lib_rollback_generation.c - after restore() in place all of the session is in the generation of
 * the checkpoint that came back, also what the program executes.
 *
 * crtest: mode=rollback users=root,nobody
 *
 * A checkpoint whose image could not be written has begun another one. After restore() a program
 * that is executed changes a file, then this one does, and restore() must find what it was before
 * both.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "put_expect.h"
#include "rollback.h"

/* Its image has no place. */
static void fail_a_checkpoint(void) {
  char path[4200];
  const char *session = getenv("CR_SESSION");
  REQUIRE(session != NULL);
  snprintf(path, sizeof path, "%s/image.1", session);
  syscall(SYS_unlink, path);
  REQUIRE(syscall(SYS_mkdir, path, 0700) == 0);
  (void)!checkpoint();
  CHECK_EQ("the checkpoint is whole", -1, checkpoint_wait(CR_LEVEL_MEMORY));
  REQUIRE(syscall(SYS_rmdir, path) == 0);
}

int main(void) {
  rollback_begin();
  put("a", "first");
  put("b", "other");
  const int r = checkpoint();
  if (r == 0) REQUIRE(checkpoint_wait(CR_LEVEL_MEMORY) == 0);
  const uint64_t count = rollback_count("count");
  CHECK_EQ("restored", count > 1 ? CR_RESTORED : 0, r);
  expect("a", "first");
  switch (count) {
    case 1:
      fail_a_checkpoint();
      rollback_now();
    case 2:
      rollback_check_in_place(1);
      REQUIRE(system("cp b a") == 0);
      put("a", "third");
      rollback_now();
    default:
      test_finish();
  }
}
