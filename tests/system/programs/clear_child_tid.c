/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * pthread_join() of threads made before the checkpoint relies on the kernel clearing their tid
 * word when they end. A detached thread's stack is also only given back after that.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "three_phase.h"

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

static pthread_barrier_t built;
static volatile int go, detached_ended;

static void *tid_address(void) {
  void *address = NULL;
  return prctl(PR_GET_TID_ADDRESS, &address) == 0 ? address
                                                  : NULL; /* needs CONFIG_CHECKPOINT_RESTORE */
}

static void *worker(void *argument) {
  void *address = tid_address();
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
  CHECK_EQ("address of the tid word", (uintptr_t)address, (uintptr_t)tid_address());
  if (argument == NULL) detached_ended = 1;
  return argument;
}

static void join_in_time(pthread_t thread, void *expected) {
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += 20;
  void *result = NULL;
  CHECK_EQ("pthread_timedjoin_np", 0, pthread_timedjoin_np(thread, &result, &deadline));
  CHECK_EQ("result of the thread", (uintptr_t)expected, (uintptr_t)result);
}

int main(void) {
  pthread_t joinable[2], detached, late;
  pthread_barrier_init(&built, NULL, 4);
  for (intptr_t i = 0; i < 2; i++) pthread_create(&joinable[i], NULL, worker, (void *)(i + 100));
  pthread_create(&detached, NULL, worker, NULL);
  pthread_detach(detached);
  pthread_barrier_wait(&built);
  void *address = tid_address();
  test_ready();
  test_wait();
  CHECK_EQ("address of main's tid word", (uintptr_t)address, (uintptr_t)tid_address());
  go = 1;
  for (intptr_t i = 0; i < 2; i++) join_in_time(joinable[i], (void *)(i + 100));
  double give_up = test_now() + 20;
  while (!detached_ended && test_now() < give_up) usleep(1000);
  CHECK_EQ("the detached thread ended", 1, detached_ended);
  /* A thread made afterwards, on a stack that libc reuses. */
  pthread_barrier_init(&built, NULL, 1);
  pthread_create(&late, NULL, worker, (void *)200);
  join_in_time(late, (void *)200);
  test_finish();
}
