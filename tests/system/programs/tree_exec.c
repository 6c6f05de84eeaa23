/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * Children that have executed a program: after fork, after vfork, by posix_spawn; one that executes
 * itself anew each time it is asked. Each has its own executable, arguments and memory.
 */
#define _GNU_SOURCE
#include <spawn.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kChildren = 4 };
struct child {
  pid_t pid;
  int to, from;
};
static struct child children[kChildren];
static const char kAgain[] = "again", kStay[] = "stay";

struct answer {
  long pid, ppid, count;
  char mode[8];
};

/* The executed program: reads commands from 0, answers on 1. argv: "child", mode, count */
static int be_child(char **argv) {
  char command;
  long count = strtol(argv[3], NULL, 10);
  while (read(0, &command, 1) == 1) {
    if (command == 'q') return 30 + (int)count;
    count++;
    struct answer a = {getpid(), getppid(), count, ""};
    strcpy(a.mode, argv[2]);
    if (write(1, &a, sizeof a) != sizeof a) return 1;
    if (strcmp(argv[2], kAgain) != 0) continue;
    char number[24];
    snprintf(number, sizeof number, "%ld", count);
    execl("/proc/self/exe", argv[0], "child", argv[2], number, (char *)NULL);
    return 2;
  }
  return 3;
}

static void start(int which, const char *program) {
  int to[2], from[2];
  REQUIRE(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
  char *const argv[] = {(char *)program, "child", (char *)(which == 3 ? kAgain : kStay), "0", NULL};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from[1], 1);
  pid_t pid = -1;
  if (which == 1) {
    REQUIRE(posix_spawn(&pid, program, &actions, NULL, argv, environ) == 0);
  } else {
    pid = which == 2 ? vfork() : fork();
    if (pid == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      execv(program, argv);
      _exit(127);
    }
  }
  posix_spawn_file_actions_destroy(&actions);
  REQUIRE(pid > 0);
  close(to[0]);
  close(from[1]);
  children[which] = (struct child){pid, to[1], from[0]};
}

int main(int argc, char **argv) {
  if (argc == 4) return be_child(argv);
  char self[4096] = "";
  REQUIRE(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
  for (int i = 0; i < kChildren; i++) start(i, self);
  usleep(100000);
  test_ready();
  test_wait();
  for (int round = 1; round <= 3; round++) {
    for (int i = 0; i < kChildren; i++) {
      struct answer a = {0};
      CHECK_EQ("command", 1, write(children[i].to, "a", 1));
      CHECK_EQ("answer", (long)sizeof a, read(children[i].from, &a, sizeof a));
      CHECK_EQ("its id", children[i].pid, a.pid);
      CHECK_EQ("its parent", getpid(), a.ppid);
      CHECK_EQ("its count", round, a.count);
      CHECK_STR("its argument", i == 3 ? kAgain : kStay, a.mode);
      char path[64], exe[4096] = "";
      snprintf(path, sizeof path, "/proc/%d/exe", (int)children[i].pid);
      /* In a private namespace without a /proc of its own that is not to be seen. */
      if (readlink(path, exe, sizeof exe - 1) > 0) CHECK_STR("its executable", self, exe);
    }
  }
  for (int i = 0; i < kChildren; i++) {
    int status = 0;
    CHECK_EQ("quit", 1, write(children[i].to, "q", 1));
    CHECK_EQ("waitpid", children[i].pid, waitpid(children[i].pid, &status, 0));
    CHECK_EQ("status", 33, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  }
  test_finish();
}
