/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later
 *
 * Whom descriptors signal: the process, a thread, the process's group; with SIGIO and with another
 * signal; O_ASYNC, which is seen by the signal that comes.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "three_phase.h"

static int to_process[2], to_thread[2], to_group[2], quiet[2];
static pid_t thread_id;
static int thread_goes = 1;
static volatile sig_atomic_t ios, signals_of_thread, wrong_thread, last_fd;

static void on_io(int number) {
  (void)number;
  ios++;
}

static void on_signal(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  if ((pid_t)syscall(SYS_gettid) != thread_id) wrong_thread++;
  last_fd = info->si_fd;
  signals_of_thread++;
}

static void *thread_main(void *argument) {
  (void)argument;
  while (__atomic_load_n(&thread_goes, __ATOMIC_SEQ_CST)) { /* it may have a new id */
    __atomic_store_n(&thread_id, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    usleep(1000);
  }
  return NULL;
}

static struct f_owner_ex owner(int fd) {
  struct f_owner_ex o = {-1, -1};
  CHECK_EQ("F_GETOWN_EX", 0, fcntl(fd, F_GETOWN_EX, &o));
  return o;
}

static void signal_to(int fd, int type, pid_t pid, int number) {
  struct f_owner_ex o = {type, pid};
  REQUIRE(fcntl(fd, F_SETOWN_EX, &o) == 0 && fcntl(fd, F_SETSIG, number) == 0);
  REQUIRE(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) == 0);
}

static void await(const char *what, volatile sig_atomic_t *count, int fd) {
  const int before = *count;
  CHECK_EQ("write", 1, write(fd, "x", 1));
  const double give_up = test_now() + 5;
  while (*count == before && test_now() < give_up) usleep(500);
  CHECK_EQ(what, before + 1, *count);
}

int main(void) {
  struct sigaction io = {.sa_handler = on_io, .sa_flags = SA_RESTART};
  struct sigaction other = {.sa_sigaction = on_signal, .sa_flags = SA_RESTART | SA_SIGINFO};
  REQUIRE(sigaction(SIGIO, &io, NULL) == 0 && sigaction(SIGRTMIN + 2, &other, NULL) == 0);
  REQUIRE(pipe(to_process) == 0 && pipe(to_thread) == 0 && pipe(to_group) == 0);
  REQUIRE(pipe(quiet) == 0);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, thread_main, NULL) == 0);
  while (__atomic_load_n(&thread_id, __ATOMIC_SEQ_CST) == 0) usleep(1000);
  signal_to(to_process[0], F_OWNER_PID, getpid(), 0);
  signal_to(to_thread[0], F_OWNER_TID, thread_id, SIGRTMIN + 2);
  REQUIRE(fcntl(to_group[0], F_SETOWN, -getpgrp()) == 0 &&
          fcntl(to_group[0], F_SETSIG, SIGURG) == 0);
  REQUIRE(fcntl(quiet[0], F_SETSIG, SIGURG) == 0);
  test_ready();
  test_wait();
  __atomic_store_n(&thread_id, 0, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&thread_id, __ATOMIC_SEQ_CST) == 0) usleep(1000);
  CHECK_EQ("type of the first", F_OWNER_PID, owner(to_process[0]).type);
  CHECK_EQ("its process", getpid(), owner(to_process[0]).pid);
  CHECK_EQ("its signal", 0, fcntl(to_process[0], F_GETSIG));
  CHECK_EQ("type of the second", F_OWNER_TID, owner(to_thread[0]).type);
  CHECK_EQ("its thread", thread_id, owner(to_thread[0]).pid);
  CHECK_EQ("its signal", SIGRTMIN + 2, fcntl(to_thread[0], F_GETSIG));
  CHECK_EQ("type of the third", F_OWNER_PGRP, owner(to_group[0]).type);
  CHECK_EQ("its group", getpgrp(), owner(to_group[0]).pid);
  CHECK_EQ("its signal", SIGURG, fcntl(to_group[0], F_GETSIG));
  CHECK_EQ("no O_ASYNC", 0, fcntl(to_group[0], F_GETFL) & O_ASYNC);
  CHECK_EQ("nobody", 0, owner(quiet[0]).pid);
  CHECK_EQ("its signal", SIGURG, fcntl(quiet[0], F_GETSIG));
  CHECK_EQ("the other end has none", 0, owner(to_process[1]).pid);
  CHECK_EQ("O_ASYNC", O_ASYNC, fcntl(to_process[0], F_GETFL) & O_ASYNC);
  await("SIGIO", &ios, to_process[1]);
  await("the thread's signal", &signals_of_thread, to_thread[1]);
  CHECK_EQ("only that thread's", 0, wrong_thread);
  CHECK_EQ("with the descriptor", to_thread[0], last_fd);
  thread_goes = 0;
  pthread_join(thread, NULL);
  test_finish();
}
