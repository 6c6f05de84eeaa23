/* SPDX-License-Identifier: MIT */
/*
 * tree_steps.c - three processes in a ring pass a token round; each counts in its own memory and in
 * shared memory, and the token must be the next number each time: one process that is of another
 * checkpoint than the others is found out. Each tenth step has a child of its own. The first writes
 * each step to steps.log. Ends when CRTEST_GO is there. Used by tests/crash/trees.py.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kRing = 3 };
static int pipes[kRing][2];
static long own, *common;

static void fail(const char *what, long expected, long got) {
  dprintf(STDOUT_FILENO, "FAIL: process %d: %s, expected %ld, got %ld\n", (int)getpid(), what,
          expected, got);
  _exit(1);
}

static long receive(int which) {
  long token = 0;
  size_t have = 0;
  while (have < sizeof token) {
    ssize_t n = read(pipes[which][0], (char *)&token + have, sizeof token - have);
    if (n <= 0) fail("bytes of a token", 8, (long)n);
    have += (size_t)n;
  }
  return token;
}

static void pass(int which, long token) {
  if (write(pipes[(which + 1) % kRing][1], &token, sizeof token) != sizeof token) {
    fail("bytes of a token sent", sizeof token, 0);
  }
}

static void take(int which, long token) {
  own++;
  if (token != own) fail("token", own, token);
  if (common[which] != own - 1) fail("shared count", own - 1, common[which]);
  common[which] = own;
}

static void member(int which) {
  for (long token; (token = receive(which)) != 0;) {
    take(which, token);
    if (token % 10 == which) {
      int status = 0;
      pid_t pid = fork();
      if (pid == 0) _exit((int)(token % 100));
      if (waitpid(pid, &status, 0) != pid || status != (token % 100) << 8) {
        fail("status of a child", token % 100, status);
      }
    }
    usleep(200);
    pass(which, token);
  }
  pass(which, 0);
  _exit(0);
}

int main(void) {
  common = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(common != MAP_FAILED);
  for (int i = 0; i < kRing; i++) REQUIRE(pipe(pipes[i]) == 0);
  int log = open("steps.log", O_CREAT | O_WRONLY | O_APPEND, 0644);
  REQUIRE(log >= 0);
  for (int i = 1; i < kRing; i++) {
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) member(i);
  }
  test_ready();
  long token = 0;
  while (!test_poll()) {
    take(0, ++token);
    char line[32];
    int n = snprintf(line, sizeof line, "%ld\n", token);
    if (write(log, line, (size_t)n) != n) fail("bytes of the log", n, 0);
    pass(0, token);
    if (receive(0) != token) fail("token that came round", token, 0);
  }
  pass(0, 0);
  if (receive(0) != 0) fail("last token", 0, 1);
  for (int i = 1, status; i < kRing; i++) {
    if (wait(&status) < 0 || status != 0) fail("status of a member", 0, status);
  }
  test_finish();
}
