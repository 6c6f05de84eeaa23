/* SPDX-License-Identifier: MIT */
/* crtest: mode=often timeout=120
 *
 * Processes come and go all the time, by fork, vfork, posix_spawn and exec, with pipes between
 * them, while checkpoints are taken and everything is killed: no status and no byte gets lost.
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <sys/wait.h>

#include "three_phase.h"

static long rounds, next_sum = 1, sum;

static void one_of_each(void) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  pid_t writer = fork();
  REQUIRE(writer >= 0);
  if (writer == 0) {
    long number = next_sum;
    for (int i = 0; i < 3; i++) {
      if (write(ends[1], &number, sizeof number) != sizeof number) _exit(1);
      usleep(300);
      number++;
    }
    _exit((int)(rounds % 100));
  }
  close(ends[1]);
  char *const argv[] = {"sh", "-c", "exit 7", NULL};
  pid_t spawned = -1;
  REQUIRE(posix_spawn(&spawned, "/bin/sh", NULL, NULL, argv, environ) == 0);
  pid_t vforked = vfork();
  if (vforked == 0) {
    execl("/bin/true", "true", (char *)NULL);
    _exit(127);
  }
  long number;
  ssize_t n;
  while ((n = read(ends[0], &number, sizeof number)) > 0) {
    if (n != (ssize_t)sizeof number) TEST_FAIL("a torn number: %zd bytes", n);
    CHECK_EQ("number", next_sum, number);
    next_sum = number + 1;
    sum += number;
  }
  close(ends[0]);
  int status = 0;
  CHECK_EQ("waitpid of the writer", writer, waitpid(writer, &status, 0));
  CHECK_EQ("its status", (rounds % 100) << 8, status);
  CHECK_EQ("waitpid of the spawned", spawned, waitpid(spawned, &status, 0));
  CHECK_EQ("its status", 7 << 8, status);
  CHECK_EQ("waitpid of the vforked", vforked, waitpid(vforked, &status, 0));
  CHECK_EQ("its status", 0, status);
  CHECK_EQ("no other child", -1, waitpid(-1, NULL, WNOHANG));
  rounds++;
}

int main(void) {
  one_of_each();
  test_ready();
  test_wait_doing(one_of_each);
  for (int i = 0; i < 20; i++) one_of_each();
  CHECK_EQ("numbers", 3 * rounds + 1, next_sum);
  CHECK_EQ("their sum", next_sum * (next_sum - 1) / 2, sum);
  test_finish();
}
