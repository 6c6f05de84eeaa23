/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:child
 *
 * A living child process: the checkpoint is refused, and parent and child go on.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>

#include "three_phase.h"

int main(void) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(ends[1]);
    char byte;
    _exit(read(ends[0], &byte, 1) == 1 && byte == 'e' ? 5 : 6); /* also ends with its parent */
  }
  close(ends[0]);
  test_ready();
  test_wait();
  CHECK_EQ("the child lives", 0, waitpid(child, NULL, WNOHANG));
  CHECK_EQ("write", 1, write(ends[1], "e", 1));
  int status = 0;
  CHECK_EQ("waitpid", child, waitpid(child, &status, 0));
  CHECK_EQ("status of the child", 5, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  test_finish();
}
