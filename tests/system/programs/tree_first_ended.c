/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The first process has ended; its child goes on, and is the program from then on. crrun's status
 * is the first one's.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include "three_phase.h"

int main(void) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  pid_t first = getpid(), pid = fork();
  REQUIRE(pid >= 0);
  if (pid != 0) return 0;
  while (getppid() == first) usleep(1000);
  REQUIRE(write(ends[1], "kept", 4) == 4);
  pid_t own = getpid();
  test_ready();
  test_wait();
  char text[8] = "";
  CHECK_EQ("the pipe", 4, read(ends[0], text, sizeof text));
  CHECK_STR("its content", "kept", text);
  CHECK_EQ("id", own, getpid());
  test_finish();
}
