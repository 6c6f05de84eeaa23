/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * Pidfds among processes: of a child (also in an epoll set, and inherited by another child), of the
 * parent, of a zombie, of a process that was waited for; close-on-exec and O_NONBLOCK.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "three_phase.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static int pidfd_of(pid_t pid, unsigned flags) {
  int fd = (int)syscall(SYS_pidfd_open, pid, flags);
  REQUIRE(fd >= 0);
  return fd;
}

static int has_ended(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, 0) > 0 && (p.revents & POLLIN) != 0;
}

static int send_signal(int fd, int number) {
  return (int)syscall(SYS_pidfd_send_signal, fd, number, NULL, 0);
}

static volatile sig_atomic_t signals;
static void count(int number) {
  (void)number;
  signals++;
}

/* Signals the parent and its sister by what it has inherited, when it is told to. */
static void messenger(int go, int sister) {
  int parent = pidfd_of(getppid(), 0);
  char byte;
  if (read(go, &byte, 1) != 1) _exit(1);
  if (has_ended(parent) || has_ended(sister)) _exit(2);
  if (send_signal(parent, SIGUSR1) != 0) _exit(3);
  _exit(send_signal(sister, SIGTERM) == 0 ? 0 : 4);
}

int main(void) {
  int go[2];
  REQUIRE(pipe(go) == 0);
  signal(SIGUSR1, count);
  pid_t sleeper = fork();
  if (sleeper == 0) {
    for (;;) pause();
  }
  int of_sleeper = pidfd_of(sleeper, O_NONBLOCK);
  pid_t sender = fork();
  if (sender == 0) messenger(go[0], of_sleeper);
  int of_parent = pidfd_of(getppid(), 0);
  close(of_parent); /* outside of the session: it could not be saved */
  pid_t zombie = fork(), gone;
  if (zombie == 0) _exit(7);
  int of_zombie = pidfd_of(zombie, 0);
  if ((gone = fork()) == 0) _exit(0);
  int of_gone = pidfd_of(gone, O_NONBLOCK);
  REQUIRE(fcntl(of_gone, F_SETFD, 0) == 0);
  REQUIRE(waitpid(gone, NULL, 0) == gone);
  siginfo_t info;
  REQUIRE(waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT) == 0);
  int set = epoll_create1(0);
  struct epoll_event e = {.events = EPOLLIN, .data.u32 = 5}, got;
  REQUIRE(set >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, of_sleeper, &e) == 0);
  usleep(50000);
  test_ready();
  test_wait();
  CHECK("the sleeper lives", !has_ended(of_sleeper));
  CHECK_EQ("O_NONBLOCK", O_NONBLOCK, fcntl(of_sleeper, F_GETFL) & O_NONBLOCK);
  CHECK_EQ("close-on-exec", FD_CLOEXEC, fcntl(of_sleeper, F_GETFD));
  CHECK_EQ("no event", 0, epoll_wait(set, &got, 1, 0));
  CHECK("the zombie has ended", has_ended(of_zombie));
  CHECK("who was waited for has", has_ended(of_gone));
  CHECK_EQ("its O_NONBLOCK", O_NONBLOCK, fcntl(of_gone, F_GETFL) & O_NONBLOCK);
  CHECK_EQ("its close-on-exec", 0, fcntl(of_gone, F_GETFD));
  CHECK_EQ("nobody is there", -1, send_signal(of_gone, 0));
  /* Restored in a process-id namespace of its own: EINVAL, as of any process outside of it. */
  CHECK("no such process", errno == ESRCH || errno == EINVAL);
  memset(&info, 0, sizeof info);
  CHECK_EQ("wait by pidfd", 0, waitid(P_PIDFD, (id_t)of_zombie, &info, WEXITED));
  CHECK_EQ("its id", zombie, info.si_pid);
  CHECK_EQ("its status", 7, info.si_status);
  CHECK_EQ("the messenger is told", 1, write(go[1], "g", 1));
  int status = -1;
  CHECK_EQ("the messenger", sender, waitpid(sender, &status, 0));
  CHECK_EQ("it did both", 0, status);
  CHECK_EQ("it reached its parent", 1, signals);
  CHECK_EQ("the set tells", 1, epoll_wait(set, &got, 1, 5000));
  CHECK_EQ("whom", 5, got.data.u32);
  CHECK_EQ("wait by pidfd", 0, waitid(P_PIDFD, (id_t)of_sleeper, &info, WEXITED));
  CHECK_EQ("how it ended", SIGTERM, info.si_status);
  test_finish();
}
