/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody timeout=240
 *
 * restore() and threads: 16 that count, sleep, wait for a futex, read from a pipe; since the
 * checkpoint some have ended and others were made, among them CR-threads. All that were there then
 * go on where they were, with their registers, thread-local variables and ids in libc's hands;
 * those made since are gone. Sleeping threads sleep no longer than they wanted to.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "rollback.h"

enum { kThreads = 16, kRounds = 24 };
static __thread uint64_t own = 0;
static pthread_t threads[kThreads];
static uint64_t counts[kThreads];
static volatile int stop_counting, end_these;
static int pipe_fds[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int wakes, answers, sleepers_may_end;
static crthread_t cr_thread;
static crmutex_t *cr_lock;

static void *count(void *arg) {
  const size_t i = (size_t)arg;
  own = i * 1000;
  double x = (double)i;
  while (!stop_counting && !(end_these && i < 4)) {
    __atomic_add_fetch(&counts[i], 1, __ATOMIC_SEQ_CST);
    own++;
    x = x * 1.0000001 + 0.5; /* a vector register is in use */
    if (own % 64 == 0) usleep(100);
  }
  return (void *)(uintptr_t)(own - i * 1000 == counts[i] && x > 0 ? i + 1 : 0);
}
static void *sleeper(void *arg) {
  const double from = test_now();
  int *milliseconds = arg;
  if (*milliseconds % 2 == 0) {
    const struct timespec t = {*milliseconds / 1000, *milliseconds % 1000 * 1000000L};
    if (nanosleep(&t, NULL) != 0) return (void *)"nanosleep ended early";
  } else if (poll(NULL, 0, *milliseconds) != 0) {
    return (void *)"poll ended early";
  }
  /* How many threads there are must not depend on how fast this machine is. */
  while (!__atomic_load_n(&sleepers_may_end, __ATOMIC_SEQ_CST)) usleep(1000);
  return test_now() - from < 0 ? (void *)"time" : NULL;
}
static void *reader(void *arg) {
  char c = 0;
  (void)arg;
  if (read(pipe_fds[0], &c, 1) != 1 || c != 'x') return (void *)"read failed";
  return NULL;
}
static void *waiter(void *arg) {
  (void)arg;
  pthread_mutex_lock(&lock);
  while (wakes == 0) pthread_cond_wait(&wake, &lock);
  answers++;
  pthread_mutex_unlock(&lock);
  return NULL;
}
static void *made_since(void *arg) {
  own = 77;
  for (volatile uint64_t n = 0;; n++)
    if (n % 1000 == 0) usleep((useconds_t)(uintptr_t)arg);
  return NULL;
}
static void *cr_start(void *arg) {
  crmutex_lock(cr_lock); /* held by main at the checkpoint */
  crmutex_unlock(cr_lock);
  return (char *)arg + 1;
}
static int count_tasks(void) {
  char text[8192];
  REQUIRE(test_read_file("/proc/self/status", text, sizeof text) > 0);
  const char *at = strstr(text, "\nThreads:");
  return at != NULL ? atoi(at + 9) : -1;
}

static void expect_null(const char *what, pthread_t t) {
  void *result = NULL;
  CHECK_EQ("pthread_join", 0, pthread_join(t, &result));
  if (result != NULL) TEST_FAIL("%s: %s", what, (char *)result);
}

int main(void) {
  static int sleeps[4] = {400, 401, 700, 701};
  pthread_t sleeping[4], reading, waiting[2];
  static crmutex_t storage = CRMUTEX_INITIALIZER;
  rollback_begin();
  cr_lock = &storage;
  REQUIRE(pipe(pipe_fds) == 0);
  REQUIRE(crmutex_lock(cr_lock) == 0);
  REQUIRE(crthread_create(&cr_thread, NULL, cr_start, (void *)0x1000) == 0);
  for (size_t i = 0; i < kThreads; i++)
    REQUIRE(pthread_create(&threads[i], NULL, count, (void *)i) == 0);
  REQUIRE(pthread_create(&reading, NULL, reader, NULL) == 0);
  for (int i = 0; i < 2; i++) REQUIRE(pthread_create(&waiting[i], NULL, waiter, NULL) == 0);
  for (int i = 0; i < 4; i++) REQUIRE(pthread_create(&sleeping[i], NULL, sleeper, &sleeps[i]) == 0);
  usleep(50000);
  const int tasks = count_tasks();
  const double before = test_now();
  const pid_t tid = gettid();
  own = 5;

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  CHECK_EQ("own variable of the main thread", 5, own);
  CHECK_EQ("id of the main thread", tid, syscall(SYS_gettid));
  CHECK_EQ("number of threads", tasks, count_tasks());
  CHECK_EQ("wakes", 0, wakes);
  CHECK_EQ("end_these", 0, end_these);
  CHECK_EQ("sleepers_may_end", 0, sleepers_may_end);
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
  }
  if (test_failures != 0) test_finish();
  if (round < kRounds) {
    own = 6;
    pthread_t t;
    for (uintptr_t i = 0; i < round % 6; i++)
      REQUIRE(pthread_create(&t, NULL, made_since, (void *)(100 + i)) == 0);
    if (round % 3 == 1) { /* four of the counting ones end */
      end_these = 1;
      for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    }
    if (round % 4 == 2) { /* and those that waited */
      REQUIRE(write(pipe_fds[1], "x", 1) == 1);
      pthread_join(reading, NULL);
      pthread_mutex_lock(&lock);
      wakes = 1;
      pthread_cond_broadcast(&wake);
      pthread_mutex_unlock(&lock);
      for (int i = 0; i < 2; i++) pthread_join(waiting[i], NULL);
      crmutex_unlock(cr_lock);
      crthread_join(cr_thread, NULL);
    }
    if (round % 5 == 0) { /* and those that slept */
      __atomic_store_n(&sleepers_may_end, 1, __ATOMIC_SEQ_CST);
      for (int i = 0; i < 4; i++) pthread_join(sleeping[i], NULL);
    }
    usleep(round * 500);
    rollback_now();
  }
  /* The last time all of them come to their ends. */
  __atomic_store_n(&sleepers_may_end, 1, __ATOMIC_SEQ_CST);
  for (int i = 0; i < 4; i++) expect_null("sleeper", sleeping[i]);
  CHECK_BETWEEN("seconds slept", 0, 30, test_now() - before);
  REQUIRE(write(pipe_fds[1], "x", 1) == 1);
  expect_null("reader", reading);
  pthread_mutex_lock(&lock);
  wakes = 1;
  pthread_cond_broadcast(&wake);
  pthread_mutex_unlock(&lock);
  for (int i = 0; i < 2; i++) expect_null("waiter", waiting[i]);
  CHECK_EQ("answers", 2, answers);
  stop_counting = 1;
  for (size_t i = 0; i < kThreads; i++) {
    void *result = NULL;
    CHECK_EQ("pthread_join", 0, pthread_join(threads[i], &result));
    CHECK_EQ("what a counting thread says", i + 1, (uintptr_t)result);
  }
  void *result = NULL;
  crmutex_unlock(cr_lock);
  CHECK_EQ("crthread_join", 0, crthread_join(cr_thread, &result));
  CHECK_EQ("what the CR-thread says", 0x1001, (uintptr_t)result);
  test_finish();
}
