/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles users=root,nobody,54321
 *
 * Process and thread ids are as before, libc's idea of them and the kernel's agree, and signals
 * sent by them reach exactly the thread that is meant.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "three_phase.h"

enum { kThreads = 3 };
static pthread_barrier_t built;
static volatile int go;
static pid_t tids[kThreads];
static __thread volatile int own_signals;
static volatile int signals_of[kThreads];
static __thread int own_index = -1;

static void on_signal(int number) {
  (void)number;
  if (own_index >= 0) signals_of[own_index]++;
}

static void *worker(void *argument) {
  own_index = (int)(intptr_t)argument;
  tids[own_index] = gettid();
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
  CHECK_EQ("gettid of a thread", tids[own_index], gettid());
  return NULL;
}

static void expect_signals(const char *what, int index, int count) {
  double give_up = test_now() + 20;
  while (signals_of[index] < count && test_now() < give_up) usleep(1000);
  CHECK_EQ(what, count, signals_of[index]);
}

int main(void) {
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  pthread_t threads[kThreads];
  pthread_barrier_init(&built, NULL, kThreads + 1);
  for (intptr_t i = 0; i < kThreads; i++) pthread_create(&threads[i], NULL, worker, (void *)i);
  pthread_barrier_wait(&built);
  pid_t pid = getpid();
  REQUIRE(gettid() == pid);
  test_ready();
  test_wait();
  CHECK_EQ("getpid", pid, getpid());
  CHECK_EQ("getpid by a raw call", pid, syscall(SYS_getpid));
  CHECK_EQ("gettid of main", pid, gettid());
  for (int i = 0; i < kThreads; i++) {
    CHECK_EQ("pthread_kill", 0, pthread_kill(threads[i], SIGUSR1));
    expect_signals("signals by pthread_kill", i, 1);
    CHECK_EQ("tgkill", 0, syscall(SYS_tgkill, pid, tids[i], SIGUSR1));
    expect_signals("signals by tgkill", i, 2);
    for (int other = i + 1; other < kThreads; other++)
      CHECK_EQ("signals of the next threads", 0, signals_of[other]);
  }
  CHECK_EQ("kill(getpid(), 0)", 0, kill(pid, 0));
  go = 1;
  for (int i = 0; i < kThreads; i++) pthread_join(threads[i], NULL);
  test_finish();
}
