/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often kill=later
 *
 * A program that the program has executed makes, moves and removes files all the time, so it is met
 * in the middle of that: after a restore each step finds what the one before has left.
 */
#define _GNU_SOURCE
#include <sys/stat.h>
#include <sys/wait.h>

#include "three_phase.h"

static void must(int good, int code) {
  if (!good) _exit(code);
}

static void change_files(void) {
  char text[16], got[16];
  for (int i = 0; access("stop", F_OK) != 0; i++) {
    const int n = snprintf(text, sizeof text, "%d", i);
    int fd = open("made", O_CREAT | O_EXCL | O_RDWR, 0600);
    must(fd >= 0, 10);
    must(write(fd, text, (size_t)n) == n && close(fd) == 0, 11);
    must(rename("made", "moved") == 0, 12);
    must(chmod("moved", 0640) == 0, 13);
    must((fd = open("moved", O_RDWR)) >= 0, 14);
    usleep(300);  // it is open at many a checkpoint, and removed while that is being written
    must(read(fd, got, sizeof got) == n && memcmp(got, text, (size_t)n) == 0, 15);
    must(pwrite(fd, "x", 1, 0) == 1 && close(fd) == 0, 16);
    must(unlink("moved") == 0, 17);
    must(mkdir("directory", 0700) == 0 && rmdir("directory") == 0, 18);
  }
  _exit(0);
}

int main(int argc, char **argv) {
  if (argc > 1) change_files();
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    execl(argv[0], argv[0], "change", NULL);
    _exit(9);
  }
  test_ready();
  test_wait();
  int stop = open("stop", O_CREAT | O_WRONLY, 0600), status = -1;
  CHECK("the word to stop", stop >= 0);
  CHECK_EQ("waited for", pid, waitpid(pid, &status, 0));
  CHECK_EQ("every step of the child", 0, status);
  test_finish();
}
