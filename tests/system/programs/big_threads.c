/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * 64 threads, each with a pattern on its stack and in its TLS, each blocked on its own condition.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "three_phase.h"

enum { kThreads = 64, kStackPattern = 40000 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t conditions[kThreads];
static int released[kThreads];
static pthread_barrier_t built;
static __thread char tls_pattern[1000];

static void *worker(void *argument) {
  int index = (int)(intptr_t)argument;
  char stack_pattern[kStackPattern];
  test_fill(stack_pattern, sizeof stack_pattern, (uint64_t)index);
  test_fill(tls_pattern, sizeof tls_pattern, (uint64_t)index + 1000);
  pid_t tid = gettid();
  pthread_barrier_wait(&built);
  pthread_mutex_lock(&mutex);
  while (!released[index]) pthread_cond_wait(&conditions[index], &mutex);
  pthread_mutex_unlock(&mutex);
  test_check_fill("pattern on the stack", stack_pattern, sizeof stack_pattern, (uint64_t)index);
  test_check_fill("pattern in TLS", tls_pattern, sizeof tls_pattern, (uint64_t)index + 1000);
  CHECK_EQ("thread id", tid, gettid());
  return (void *)(intptr_t)(index * 3);
}

int main(void) {
  static pthread_t threads[kThreads];
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 * 1024);
  pthread_barrier_init(&built, NULL, kThreads + 1);
  for (intptr_t i = 0; i < kThreads; i++) {
    pthread_cond_init(&conditions[i], NULL);
    REQUIRE(pthread_create(&threads[i], &attributes, worker, (void *)i) == 0);
  }
  pthread_barrier_wait(&built);
  usleep(100000);
  test_ready();
  test_wait();
  for (int i = 0; i < kThreads; i++) {
    pthread_mutex_lock(&mutex);
    released[i] = 1;
    pthread_cond_signal(&conditions[i]);
    pthread_mutex_unlock(&mutex);
    void *result;
    CHECK_EQ("pthread_join", 0, pthread_join(threads[i], &result));
    CHECK_EQ("result of the thread", i * 3, (intptr_t)result);
  }
  test_finish();
}
