/* SPDX-License-Identifier: MIT */
/* shared_parts.h - Processes and threads that share with others what they usually do not, or have
 * for themselves what they usually share: unshare(2), clone(2). Included instead of three_phase.h.
 */
#ifndef TESTS_SHARED_PARTS_H_
#define TESTS_SHARED_PARTS_H_

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "three_phase.h"

/* A child that shares with us what the flags of clone() say, and waits for its end. */
static inline pid_t child_that_shares(unsigned long flags) {
  const pid_t pid = (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
  REQUIRE(pid >= 0);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  return pid;
}

static volatile int has_left;

static inline void *leave_and_wait(void *flags) {
  const int left = (int)(long)flags;
  REQUIRE(unshare(left) == 0 && ((left & CLONE_FS) == 0 || chdir("/") == 0));
  has_left = 1;
  pause();
  return NULL;
}

/* A thread that has for itself what the flags say: with CLONE_FS another working directory. */
static inline void thread_that_unshares(int flags) {
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, leave_and_wait, (void *)(long)flags) == 0);
  while (!has_left) usleep(1000);
}

#endif
