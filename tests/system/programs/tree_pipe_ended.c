/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * A pipeline of which one end has ended: a child whose standard input is a pipe that nobody writes
 * to any more, with something left in it, and one whose standard output is one that nobody reads.
 * Neither is the standard input or output of the session.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>

#include "three_phase.h"

static const char kText[] = "left in the pipe";

/* In the child: waits to be told, then does its part. */
static void reader(int go) {
  char text[64] = "", byte;
  if (read(go, &byte, 1) != 1) _exit(1);
  if (read(0, text, sizeof text) != sizeof kText - 1 || strcmp(text, kText) != 0) _exit(2);
  if (read(0, text, sizeof text) != 0) _exit(3);
  _exit(0);
}
static void writer(int go) {
  char byte;
  signal(SIGPIPE, SIG_IGN);
  if (read(go, &byte, 1) != 1) _exit(1);
  if (write(1, kText, 1) != -1 || errno != EPIPE) _exit(2);
  _exit(0);
}

/* One whose descriptor `number` is the pipe's end; the parent keeps neither. */
static pid_t with_pipe(int number, int go[2], void run(int)) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  pid_t other = fork();
  REQUIRE(other >= 0);
  if (other == 0) _exit(number == 0 && write(ends[1], kText, sizeof kText - 1) < 0);
  REQUIRE(waitpid(other, NULL, 0) == other);
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    if (dup2(ends[number], number) != number) _exit(4);
    close(ends[0]);
    close(ends[1]);
    close(go[1]);
    run(go[0]);
  }
  close(ends[0]);
  close(ends[1]);
  return pid;
}

int main(void) {
  int go[2], status = -1;
  REQUIRE(pipe(go) == 0);
  pid_t reads = with_pipe(0, go, reader), writes = with_pipe(1, go, writer);
  test_ready();
  test_wait();
  CHECK_EQ("both are told", 2, write(go[1], "gg", 2));
  CHECK_EQ("who reads", reads, waitpid(reads, &status, 0));
  CHECK_EQ("it found what was left, and the end", 0, status);
  CHECK_EQ("who writes", writes, waitpid(writes, &status, 0));
  CHECK_EQ("it found nobody", 0, status);
  test_finish();
}
