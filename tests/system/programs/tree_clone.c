/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * Children of clone(2) that are no fork: on a stack of its own with an argument, with its id in a
 * word of its memory, with a pidfd of clone3, and a sibling (CLONE_PARENT). Which of them it is
 * each tells through a pipe when it is asked, and by its exit status.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kStack = 256 << 10, kOnStack = 41, kToldItself, kByPidfd, kSibling, kMiddle };
static int asking[2], answers[2];
static int *own_id;

static int serve(int number) {
  char byte;
  while (read(asking[0], &byte, 1) == 1) {
    if (byte == 'q') return number;
    const struct { int number, pid, parent; } answer = {number, getpid(), getppid()};
    if (write(answers[1], &answer, sizeof answer) != sizeof answer) return 1;
    usleep(2000); /* the others have a turn */
  }
  return 2;
}

static int on_stack(void *argument) {
  int local = *(int *)argument; /* on the stack that the parent has given */
  const int result = serve(local);
  return result == local ? local : 3;
}

int main(void) {
  pid_t pids[5], said = 0;
  int first = kOnStack, pidfd = -1;
  REQUIRE(pipe(asking) == 0 && pipe(answers) == 0);
  char *stack = mmap(NULL, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  own_id = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(stack != MAP_FAILED && own_id != MAP_FAILED);
  pids[0] = clone(on_stack, stack + kStack, SIGCHLD, &first);
  REQUIRE(pids[0] > 0);
  *own_id = 7;
  pids[1] = (pid_t)syscall(SYS_clone, CLONE_CHILD_SETTID | SIGCHLD, NULL, NULL, own_id, NULL);
  if (pids[1] == 0) _exit(serve(kToldItself));
  struct clone_args arguments = {.flags = CLONE_PIDFD | CLONE_PARENT_SETTID,
                                 .pidfd = (uint64_t)(uintptr_t)&pidfd,
                                 .parent_tid = (uint64_t)(uintptr_t)&said,
                                 .exit_signal = SIGCHLD};
  pids[2] = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
  if (pids[2] == 0) _exit(serve(kByPidfd));
  REQUIRE(pids[2] > 0 && said == pids[2] && pidfd >= 0);
  int told[2];
  REQUIRE(pipe(told) == 0);
  pids[3] = fork();
  if (pids[3] == 0) {
    /* Its sibling and our child, by CLONE_PARENT; the exit signal is the caller's. */
    const pid_t sibling = (pid_t)syscall(SYS_clone, CLONE_PARENT, NULL, NULL, NULL, NULL);
    if (sibling == 0) _exit(serve(kSibling));
    if (write(told[1], &sibling, sizeof sibling) != sizeof sibling) _exit(4);
    _exit(serve(kMiddle));
  }
  REQUIRE(read(told[0], &pids[4], sizeof pids[4]) == sizeof pids[4]);
  for (int tries = 0; *own_id != pids[1] && tries < 1000; tries++) usleep(1000);
  REQUIRE(*own_id == pids[1]);
  test_ready();
  test_wait();
  const int numbers[] = {kOnStack, kToldItself, kByPidfd, kMiddle, kSibling};
  int seen = 0;
  for (int round = 0; round < 1000 && seen != 31; round++) {
    struct {
      int number, pid, parent;
    } answer;
    REQUIRE(write(asking[1], "?", 1) == 1);
    REQUIRE(read(answers[0], &answer, sizeof answer) == sizeof answer);
    for (int i = 0; i < 5; i++) {
      if (numbers[i] != answer.number) continue;
      CHECK_EQ("its id", pids[i], answer.pid);
      CHECK_EQ("its parent", getpid(), answer.parent);
      seen |= 1 << i;
    }
  }
  CHECK_EQ("who has answered", 31, seen);
  REQUIRE(write(asking[1], "qqqqq", 5) == 5);
  struct pollfd p = {pidfd, POLLIN, 0};
  CHECK_EQ("the pidfd", 1, poll(&p, 1, 10000));
  for (int i = 0; i < 5; i++) {
    int status = 0;
    CHECK_EQ("waited for", pids[i], waitpid(pids[i], &status, 0));
    CHECK_EQ("status", numbers[i], WEXITSTATUS(status));
  }
  test_finish();
}
