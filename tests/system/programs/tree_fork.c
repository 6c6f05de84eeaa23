/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * A parent and its child: pipes both ways with bytes in them, an open file whose offset they share,
 * a descriptor that only the child has, memory that went apart at fork; the child waits in read, a
 * grandchild is waited for by a thread of the child's; ids and exit statuses.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>

#include "three_phase.h"

struct answer {
  long pid, ppid, pgid, offset, memory, fd_flags, held;
};

static int commands[2], answers[2], held[2], shared_file;
static volatile long memory = 1;
static volatile long grandchild_status = -1;

static void *wait_for_grandchild(void *argument) {
  int status = 0;
  pid_t pid = *(pid_t *)argument;
  grandchild_status = waitpid(pid, &status, 0) == pid ? status : -2;
  return NULL;
}

static void child(void) {
  static pid_t grandchild;
  close(commands[1]);
  close(answers[0]);
  close(held[1]);
  memory = 2;
  int own = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fcntl(own, F_DUPFD_CLOEXEC, 100) != 100) _exit(20);
  grandchild = fork();
  if (grandchild == 0) {
    char byte;
    close(answers[1]);
    while (read(held[0], &byte, 1) == 1 && byte != 'e') {
    }
    _exit(byte == 'e' ? 11 : 12);
  }
  pthread_t thread;
  pthread_create(&thread, NULL, wait_for_grandchild, &grandchild);
  if (write(answers[1], "begin", 5) != 5) _exit(21);
  char command;
  while (read(commands[0], &command, 1) == 1) {
    if (command == 'q') {
      pthread_join(thread, NULL);
      _exit(WIFEXITED(grandchild_status) ? WEXITSTATUS(grandchild_status) : 22);
    }
    struct answer a = {getpid(), getppid(),           getpgrp(), lseek(shared_file, 0, SEEK_CUR),
                       memory,   fcntl(100, F_GETFD), 0};
    memory++;
    if (write(shared_file, "c", 1) != 1) _exit(23);
    if (write(answers[1], &a, sizeof a) != sizeof a) _exit(24);
  }
  _exit(25);
}

int main(void) {
  REQUIRE(pipe(commands) == 0 && pipe(answers) == 0 && pipe(held) == 0);
  shared_file = open("shared.txt", O_CREAT | O_TRUNC | O_RDWR, 0600);
  REQUIRE(shared_file >= 0 && write(shared_file, "0123456789", 10) == 10);
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) child();
  close(commands[0]);
  close(answers[1]);
  close(held[0]);
  char text[8] = "";
  REQUIRE(read(answers[0], text, 5) == 5);
  REQUIRE(write(held[1], "abc", 3) == 3);
  usleep(50000);
  test_ready();
  test_wait();
  struct answer a = {0};
  for (int i = 0; i < 3; i++) {
    CHECK_EQ("command", 1, write(commands[1], "a", 1));
    CHECK_EQ("answer", (long)sizeof a, read(answers[0], &a, sizeof a));
    CHECK_EQ("id of the child", pid, a.pid);
    CHECK_EQ("its parent", getpid(), a.ppid);
    CHECK_EQ("its group", getpgrp(), a.pgid);
    CHECK_EQ("offset that the child sees", 10 + 2 * i, a.offset);
    CHECK_EQ("memory of the child", 2 + i, a.memory);
    CHECK_EQ("memory of the parent", 1, memory);
    CHECK_EQ("close-on-exec of the child's descriptor", FD_CLOEXEC, a.fd_flags);
    CHECK_EQ("offset that the parent sees", 11 + 2 * i, lseek(shared_file, 0, SEEK_CUR));
    CHECK_EQ("write by the parent", 1, write(shared_file, "p", 1));
  }
  CHECK_EQ("the child lives", 0, waitpid(pid, NULL, WNOHANG));
  CHECK_EQ("the end of the grandchild", 1, write(held[1], "e", 1));
  CHECK_EQ("the end of the child", 1, write(commands[1], "q", 1));
  int status = 0;
  CHECK_EQ("waitpid", pid, waitpid(pid, &status, 0));
  CHECK_EQ("status, which is the grandchild's", 11, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  CHECK_EQ("end of the child's pipe", 0, read(answers[0], text, 1));
  char content[20] = "";
  CHECK_EQ("the shared file", 16, pread(shared_file, content, sizeof content, 0));
  CHECK_STR("its content", "0123456789cpcpcp", content);
  test_finish();
}
