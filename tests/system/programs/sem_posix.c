/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Unnamed POSIX semaphores: one with a count, one with threads waiting in sem_wait and
 * sem_clockwait.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>

#include "three_phase.h"

static sem_t counted, awaited, answered;

static void *waiter(void *argument) {
  if (argument == NULL) {
    CHECK("sem_wait", sem_wait(&awaited) == 0);
  } else {
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += 3600;
    CHECK("sem_clockwait", sem_clockwait(&awaited, CLOCK_MONOTONIC, &deadline) == 0);
  }
  sem_post(&answered);
  return NULL;
}

int main(void) {
  sem_init(&counted, 0, 7);
  sem_init(&awaited, 0, 0);
  sem_init(&answered, 0, 0);
  pthread_t threads[4];
  for (intptr_t i = 0; i < 4; i++) pthread_create(&threads[i], NULL, waiter, (void *)(i % 2));
  usleep(100000);
  test_ready();
  test_wait();
  int value = -1;
  sem_getvalue(&counted, &value);
  CHECK_EQ("count", 7, value);
  for (int i = 0; i < 7; i++) CHECK("sem_trywait", sem_trywait(&counted) == 0);
  CHECK_EQ("sem_trywait of an exhausted one", -1, sem_trywait(&counted));
  sem_getvalue(&answered, &value);
  CHECK_EQ("waiters that went on too early", 0, value);
  for (int i = 0; i < 4; i++) sem_post(&awaited);
  for (int i = 0; i < 4; i++) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    CHECK("a waiter answers", sem_timedwait(&answered, &deadline) == 0);
  }
  if (test_failures == 0)
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  test_finish();
}
