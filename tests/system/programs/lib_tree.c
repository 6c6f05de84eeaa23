/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback timeout=60
 *
 * checkpoint() and restore() by the processes of a tree: a child's checkpoint is one of all, and
 * restore() brings all of them back to it, with what they had said to each other.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "rollback.h"

static int to_child[2], to_parent[2];
static long own = 1;

static void child(void) {
  char command;
  while (read(to_child[0], &command, 1) == 1) {
    long answer = own;
    if (command == 'c') answer = checkpoint();
    if (command == '+') answer = ++own;
    if (command == 'q') _exit((int)own);
    if (write(to_parent[1], &answer, sizeof answer) != sizeof answer) _exit(99);
  }
  _exit(98);
}

static long ask(char command) {
  long answer = -77;
  CHECK_EQ("command", 1, write(to_child[1], &command, 1));
  CHECK_EQ("answer", (long)sizeof answer, read(to_parent[0], &answer, sizeof answer));
  return answer;
}

int main(void) {
  rollback_begin();
  REQUIRE(pipe(to_child) == 0 && pipe(to_parent) == 0);
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) child();
  own = 10;
  CHECK_EQ("count of the child", 2, ask('+'));
  const long taken = ask('c'); /* the child's, of both */
  const uint64_t times = rollback_count("times");
  if (times == 1) CHECK_EQ("the child's checkpoint()", 0, taken);
  if (times > 1) CHECK_EQ("the child's checkpoint(), come true", CR_RESTORED, taken);
  CHECK_EQ("own", 10, own);
  CHECK_EQ("count of the child", 3, ask('+'));
  CHECK_EQ("the child lives", 0, waitpid(pid, NULL, WNOHANG));
  own = 11;
  if (times < 3) {
    restore();
    dprintf(STDOUT_FILENO, "FAIL: restore(): %s\n", crerror());
    exit(1);
  }
  int status = 0;
  CHECK_EQ("quit", 1, write(to_child[1], "q", 1));
  CHECK_EQ("waitpid", pid, waitpid(pid, &status, 0));
  CHECK_EQ("its status", 3, WEXITSTATUS(status));
  const int r = checkpoint(); /* of one process again */
  if (rollback_count("alone") == 1) {
    CHECK_EQ("checkpoint()", 0, r);
    restore();
  }
  CHECK_EQ("checkpoint(), come true", CR_RESTORED, r);
  test_finish();
}
