/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Clocks that count from a boot. Time may be missing from none of them while the program is dead,
 * or all of it (clock_test.py says which); they never go backwards, the vDSO and the system call
 * agree, and an absolute deadline of a sleep, of a futex and of a condition is met by that clock.
 *
 * CLOCK_LEAST_S: the first reading is beyond that. CLOCK_MOST_GAP_MS, CLOCK_LEAST_GAP_MS: the
 * longest step between two readings.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "three_phase.h"

enum { kClocks = 4, kWaiters = 3 };
static const int kIds[kClocks] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE,
                                  CLOCK_MONOTONIC_RAW};
static const char *const kNames[kClocks] = {"CLOCK_MONOTONIC", "CLOCK_BOOTTIME",
                                            "CLOCK_MONOTONIC_COARSE", "CLOCK_MONOTONIC_RAW"};
static long long last[kClocks], longest[kClocks];
static struct timespec deadline;

static long long in_ns(struct timespec t) { return t.tv_sec * 1000000000ll + t.tv_nsec; }
static long long by_vdso(int clock) {
  struct timespec t;
  REQUIRE(clock_gettime(clock, &t) == 0);
  return in_ns(t);
}
static long long by_call(int clock) {
  struct timespec t;
  REQUIRE(syscall(SYS_clock_gettime, clock, &t) == 0);
  return in_ns(t);
}

static void look(void) {
  for (int i = 0; i < kClocks; i++) {
    const long long before = by_call(kIds[i]), now = by_vdso(kIds[i]), after = by_call(kIds[i]);
    if (now < before || now > after)
      TEST_FAIL("%s, expected %lld..%lld by the vDSO, got %lld", kNames[i], before, after, now);
    if (now < last[i]) TEST_FAIL("%s went back from %lld to %lld", kNames[i], last[i], now);
    if (last[i] != 0 && now - last[i] > longest[i]) longest[i] = now - last[i];
    last[i] = now;
  }
}

static long limit(const char *name) {
  const char *text = getenv(name);
  return text == NULL ? 0 : atol(text);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static void *waiter(void *argument) {
  const intptr_t kind = (intptr_t)argument;
  static const char *const kWaits[kWaiters] = {"clock_nanosleep", "futex", "pthread_cond"};
  static uint32_t word;
  long r = 0;
  if (kind == 0) r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL);
  if (kind == 1) {
    r = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &deadline, NULL, ~0u);
    r = r == -1 && errno == ETIMEDOUT ? 0 : -1;
  }
  if (kind == 2) {
    pthread_mutex_lock(&mutex);
    while (r == 0) r = pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &deadline);
    pthread_mutex_unlock(&mutex);
    r = r == ETIMEDOUT ? 0 : r;
  }
  CHECK_EQ(kWaits[kind], 0, r);
  const long long latest = in_ns(deadline) + 1500000000ll + limit("CLOCK_LEAST_GAP_MS") * 1000000ll;
  CHECK_BETWEEN(kWaits[kind], in_ns(deadline), latest, by_call(CLOCK_MONOTONIC));
  return NULL;
}

int main(void) {
  pthread_t threads[kWaiters];
  clock_gettime(CLOCK_MONOTONIC, &deadline);
  CHECK_BETWEEN("seconds since the boot", limit("CLOCK_LEAST_S"), 4000000000, deadline.tv_sec);
  deadline.tv_sec += limit("CLOCK_DEADLINE_S") != 0 ? limit("CLOCK_DEADLINE_S") : 1;
  for (intptr_t i = 0; i < kWaiters; i++)
    REQUIRE(pthread_create(&threads[i], NULL, waiter, (void *)i) == 0);
  look();
  test_ready();
  test_wait_doing(look);
  while (by_call(CLOCK_MONOTONIC) < in_ns(deadline)) {
    look();
    usleep(2000);
  }
  for (int i = 0; i < kWaiters; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < kClocks; i++) {
    const long most = limit("CLOCK_MOST_GAP_MS");
    CHECK_BETWEEN(kNames[i], limit("CLOCK_LEAST_GAP_MS"), most != 0 ? most : 60000,
                  longest[i] / 1000000);
  }
  test_finish();
}
