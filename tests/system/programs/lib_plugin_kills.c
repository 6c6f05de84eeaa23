/* SPDX-License-Identifier: MIT */
/*
 * A plug-in whose save() kills the program: its first thread dies while the agent waits for it to
 * report, and the others are held. cli_test.py, program_dies_when_asked, looks at what becomes of
 * crrun.
 */
#define _GNU_SOURCE
#include <checkpoint_restore_plugin.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "three_phase.h"

static int save(void *context, char *why, size_t size) {
  (void)context, (void)why, (void)size;
  syscall(SYS_kill, getpid(), SIGKILL);
  return 0;
}
static int restore(void *context) {
  (void)context;
  return 0;
}
static void *wait_for_ever(void *arg) {
  for (;;) pause();
  return arg;
}

int main(void) {
  const struct crplugin p = {.version = CRPLUGIN_VERSION,
                             .size = sizeof p,
                             .name = "deadly",
                             .save = save,
                             .restore = restore};
  pthread_t other;
  REQUIRE(crplugin_register(&p) == 0);
  REQUIRE(pthread_create(&other, NULL, wait_for_ever, NULL) == 0);
  test_ready();
  test_wait();
  test_finish();
}
