/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * Contended pthread objects: a mutex of each type held by main with threads waiting for it (their
 * owner checks depend on the thread id), a condition with many waiters, a read-write lock with a
 * reader inside and writers waiting, a barrier that lacks one.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "three_phase.h"

enum { kMutexes = 5, kWaitersEach = 3 };
static const char *const kMutexNames[kMutexes] = {"normal", "error-checking", "recursive",
                                                  "adaptive", "priority-inheriting"};
static pthread_mutex_t mutexes[kMutexes];
static int locked_by_waiters[kMutexes];

static pthread_mutex_t cond_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int tokens, tokens_taken;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static int writers_done;
static pthread_barrier_t barrier;
static int barrier_passed;

static void *lock_waiter(void *argument) {
  int i = (int)(intptr_t)argument;
  CHECK_EQ(kMutexNames[i], 0, pthread_mutex_lock(&mutexes[i]));
  locked_by_waiters[i]++;
  CHECK_EQ(kMutexNames[i], 0, pthread_mutex_unlock(&mutexes[i]));
  return NULL;
}
static void *cond_waiter(void *argument) {
  (void)argument;
  pthread_mutex_lock(&cond_mutex);
  while (tokens == 0) pthread_cond_wait(&cond, &cond_mutex);
  tokens--;
  tokens_taken++;
  pthread_mutex_unlock(&cond_mutex);
  return NULL;
}
static void *writer(void *argument) {
  (void)argument;
  CHECK_EQ("pthread_rwlock_wrlock", 0, pthread_rwlock_wrlock(&rwlock));
  writers_done++;
  pthread_rwlock_unlock(&rwlock);
  return NULL;
}
static void *barrier_waiter(void *argument) {
  (void)argument;
  if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
    __atomic_add_fetch(&barrier_passed, 100, __ATOMIC_SEQ_CST);
  __atomic_add_fetch(&barrier_passed, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

static void make_mutexes(void) {
  static const int kTypes[4] = {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ERRORCHECK,
                                PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ADAPTIVE_NP};
  pthread_mutexattr_t attributes;
  for (int i = 0; i < kMutexes; i++) {
    pthread_mutexattr_init(&attributes);
    if (i < 4)
      pthread_mutexattr_settype(&attributes, kTypes[i]);
    else
      pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    REQUIRE(pthread_mutex_init(&mutexes[i], &attributes) == 0);
    REQUIRE(pthread_mutex_lock(&mutexes[i]) == 0);
  }
  REQUIRE(pthread_mutex_lock(&mutexes[2]) == 0); /* the recursive one twice */
}

static void release_mutexes(void) {
  CHECK_EQ("relocking the error-checking mutex", EDEADLK, pthread_mutex_lock(&mutexes[1]));
  CHECK_EQ("unlocking the recursive mutex once", 0, pthread_mutex_unlock(&mutexes[2]));
  for (int i = 0; i < kMutexes; i++) {
    CHECK_EQ("waiters that got the held mutex", 0, locked_by_waiters[i]);
    CHECK_EQ(kMutexNames[i], 0, pthread_mutex_unlock(&mutexes[i]));
  }
}

int main(void) {
  enum { kThreads = kMutexes * kWaitersEach + 3 * kWaitersEach };
  pthread_t threads[kThreads];
  int started = 0;
  make_mutexes();
  pthread_rwlock_rdlock(&rwlock);
  pthread_barrier_init(&barrier, NULL, kWaitersEach + 1);
  for (int n = 0; n < kWaitersEach; n++) {
    for (intptr_t i = 0; i < kMutexes; i++)
      pthread_create(&threads[started++], NULL, lock_waiter, (void *)i);
    pthread_create(&threads[started++], NULL, cond_waiter, NULL);
    pthread_create(&threads[started++], NULL, writer, NULL);
    pthread_create(&threads[started++], NULL, barrier_waiter, NULL);
  }
  usleep(200000); /* let all of them block */
  test_ready();
  test_wait();
  release_mutexes();
  pthread_mutex_lock(&cond_mutex);
  tokens = kWaitersEach;
  pthread_cond_broadcast(&cond);
  pthread_mutex_unlock(&cond_mutex);
  CHECK_EQ("writers that got in beside the reader", 0, writers_done);
  CHECK_EQ("pthread_rwlock_unlock", 0, pthread_rwlock_unlock(&rwlock));
  barrier_waiter(NULL);
  for (int i = 0; i < kThreads; i++) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    CHECK_EQ("join of a waiter", 0, pthread_timedjoin_np(threads[i], NULL, &deadline));
  }
  for (int i = 0; i < kMutexes; i++) CHECK_EQ(kMutexNames[i], kWaitersEach, locked_by_waiters[i]);
  CHECK_EQ("tokens taken", kWaitersEach, tokens_taken);
  CHECK_EQ("writers", kWaitersEach, writers_done);
  CHECK_EQ("threads past the barrier, one of them serial", 100 + kWaitersEach + 1, barrier_passed);
  test_finish();
}
