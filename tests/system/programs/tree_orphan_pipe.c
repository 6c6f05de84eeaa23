/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A pipe whose other end only a grandchild has, which is no child any more.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include "three_phase.h"

int main(void) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t middle = fork();
  REQUIRE(middle >= 0);
  if (middle == 0) {
    if (fork() != 0) _exit(0);
    close(ends[0]);
    while (access(test_file("CRTEST_GO", "go"), F_OK) != 0) usleep(10000);
    _exit(write(ends[1], "x", 1) != 1);
  }
  close(ends[1]);
  REQUIRE(waitpid(middle, NULL, 0) == middle);
  test_ready();
  test_wait();
  char byte = 0;
  CHECK_EQ("the orphan's byte", 1, read(ends[0], &byte, 1));
  CHECK_EQ("it", 'x', byte);
  test_finish();
}
