/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * Processes whose last thread ends by the system call exit, not exit_group: nothing of ours may
 * keep them. A child that is alone, one whose first thread ends first, and in the end this process,
 * whose main thread has ended before the checkpoint.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kStatus = 42 };
static int told[2];

static void leave(int status) { syscall(SYS_exit, status); }

static void wait_until_told(void) {
  char byte;
  while (read(told[0], &byte, 1) < 0) {
  }
}

static void *leave_last(void *argument) {
  while (syscall(SYS_getpid) != 0) { /* until the first thread is gone */
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
    if (test_read_file(path, text, sizeof text) < 0 || strstr(text, ") Z ") != NULL) break;
    usleep(1000);
  }
  wait_until_told();
  leave(0);
  return argument;
}

static void *rest(void *argument) {
  const pid_t *children = argument;
  test_ready();
  test_wait();
  REQUIRE(write(told[1], "ab", 2) == 2);
  int status = 0;
  CHECK_EQ("waited for the one alone", children[0], waitpid(children[0], &status, 0));
  CHECK_EQ("its status", kStatus << 8, status);
  CHECK_EQ("waited for the other", children[1], waitpid(children[1], &status, 0));
  CHECK_EQ("it has exited with 0", 0, status);
  if (__atomic_load_n(&test_failures, __ATOMIC_SEQ_CST) != 0) exit(1);
  REQUIRE(write(STDOUT_FILENO, "PASS\n", 5) == 5);
  leave(0);
  return NULL;
}

int main(void) {
  static pid_t children[2];
  pthread_t thread;
  REQUIRE(pipe(told) == 0);
  children[0] = fork();
  if (children[0] == 0) {
    wait_until_told();
    leave(kStatus);
  }
  children[1] = fork();
  if (children[1] == 0) {
    if (pthread_create(&thread, NULL, leave_last, NULL) != 0) _exit(1);
    leave(0);
  }
  REQUIRE(children[0] > 0 && children[1] > 0);
  REQUIRE(pthread_create(&thread, NULL, rest, children) == 0);
  leave(0);
}
