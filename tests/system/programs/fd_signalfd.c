/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Signalfds: which signals each gives, O_NONBLOCK, a signal that is pending for one, and a pidfd of
 * the process itself and of one of its threads.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "three_phase.h"

static int thread_goes;

static void *thread_main(void *argument) {
  *(pid_t *)argument = (pid_t)syscall(SYS_gettid);
  __atomic_store_n(&thread_goes, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&thread_goes, __ATOMIC_SEQ_CST) != 2) usleep(1000);
  return NULL;
}

static int signals(int fd, int *value) {
  struct signalfd_siginfo info;
  if (read(fd, &info, sizeof info) != sizeof info) return -errno;
  *value = info.ssi_int;
  return (int)info.ssi_signo;
}

static int is_readable(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, 0) == 1;
}

int main(void) {
  sigset_t one, other, both;
  sigemptyset(&one);
  sigemptyset(&other);
  sigaddset(&one, SIGUSR1);
  sigaddset(&other, SIGRTMIN + 3);
  both = one;
  sigaddset(&both, SIGRTMIN + 3);
  REQUIRE(sigprocmask(SIG_BLOCK, &both, NULL) == 0);
  int first = signalfd(-1, &one, SFD_NONBLOCK | SFD_CLOEXEC), second = signalfd(-1, &other, 0);
  int myself = (int)syscall(SYS_pidfd_open, getpid(), 0);
  pthread_t thread;
  static pid_t tid;
  REQUIRE(pthread_create(&thread, NULL, thread_main, &tid) == 0);
  while (__atomic_load_n(&thread_goes, __ATOMIC_SEQ_CST) == 0) usleep(1000);
  int of_thread = (int)syscall(SYS_pidfd_open, tid, O_EXCL); /* PIDFD_THREAD, Linux 6.9 */
  REQUIRE(first >= 0 && second >= 0 && myself >= 0);
  union sigval number = {.sival_int = 12345};
  REQUIRE(sigqueue(getpid(), SIGRTMIN + 3, number) == 0);
  test_ready();
  test_wait();
  int value = 0;
  CHECK_EQ("nothing for the first", -EAGAIN, signals(first, &value));
  CHECK_EQ("close-on-exec of the first", FD_CLOEXEC, fcntl(first, F_GETFD));
  CHECK_EQ("the second's flags", 0, fcntl(second, F_GETFL) & O_NONBLOCK);
  CHECK_EQ("the second is readable", 1, is_readable(second));
  CHECK_EQ("the pending signal", SIGRTMIN + 3, signals(second, &value));
  CHECK_EQ("its value", 12345, value);
  CHECK_EQ("send one by the pidfd", 0, syscall(SYS_pidfd_send_signal, myself, SIGUSR1, NULL, 0));
  CHECK_EQ("it comes", SIGUSR1, signals(first, &value));
  CHECK_EQ("the process has not ended", 0, is_readable(myself));
  if (of_thread >= 0) CHECK_EQ("the thread has not ended", 0, is_readable(of_thread));
  __atomic_store_n(&thread_goes, 2, __ATOMIC_SEQ_CST);
  pthread_join(thread, NULL);
  struct pollfd p = {.fd = of_thread, .events = POLLIN};
  if (of_thread >= 0) CHECK_EQ("now it has", 1, poll(&p, 1, 2000));
  test_finish();
}
