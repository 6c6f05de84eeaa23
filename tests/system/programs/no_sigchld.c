/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The helpers of the checkpointer are not this program's children: no SIGCHLD arrives, wait has
 * nothing to report, and a child of its own is reported exactly once.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>

#include "three_phase.h"

static volatile sig_atomic_t signals;
static void on_child(int number) {
  (void)number;
  signals++;
}

static void expect_no_child(void) {
  int status;
  CHECK_EQ("waitpid", -1, waitpid(-1, &status, WNOHANG));
  CHECK_EQ("errno of waitpid", ECHILD, errno);
  CHECK_EQ("waitpid with __WALL", -1, waitpid(-1, &status, WNOHANG | __WALL));
  CHECK_EQ("errno of waitpid with __WALL", ECHILD, errno);
  CHECK_EQ("SIGCHLDs", 0, signals);
  if (test_failures != 0) test_finish();
}

int main(void) {
  struct sigaction action = {.sa_handler = on_child};
  sigaction(SIGCHLD, &action, NULL);
  expect_no_child();
  test_ready();
  test_wait_doing(expect_no_child);
  expect_no_child();
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) _exit(9);
  int status = 0;
  pid_t waited;
  do waited = waitpid(-1, &status, 0);
  while (waited < 0 && errno == EINTR);
  CHECK_EQ("pid of the child waited for", child, waited);
  CHECK_EQ("its exit status", 9, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  CHECK_EQ("SIGCHLDs for it", 1, signals);
  signals = 0;
  expect_no_child();
  test_finish();
}
