/* SPDX-License-Identifier: MIT */
/*
 * no_eintr.h - the frame of the no_eintr_* programs.
 *
 * Each timed call runs again and again in a thread of its own while the runner takes checkpoints
 * (without killing anything). The invariant: every call takes its full time and gives the result
 * that it gives without checkpoints, never EINTR and never early. The calls are those that the
 * kernel does not restart after a signal handler, SA_RESTART or not (signal(7)).
 */
#ifndef TESTS_SYSTEM_NO_EINTR_H
#define TESTS_SYSTEM_NO_EINTR_H

#include <pthread.h>
#include <signal.h>

#include "three_phase.h"

/* The time each call waits. Several checkpoints fall into the rounds of each. */
#define CALL_NS (600ll * 1000 * 1000)
#define CALL_MS ((int)(CALL_NS / 1000000))
/* Timers may fire a little early (coarse clocks); a noisy machine may be late. */
#define EARLY_NS (2ll * 1000 * 1000)
#define LATE_NS (1500ll * 1000 * 1000)

struct timed_call {
  const char *name;
  long (*run)(void);  /* one call; returns its result */
  long expected;      /* that result */
  int expected_errno; /* looked at if expected is -1; a raw call's -errno is its result */
  pthread_t thread;
  int rounds;
};

static volatile int no_eintr_go;

static inline struct timespec call_time(void) {
  struct timespec t = {CALL_NS / 1000000000, CALL_NS % 1000000000};
  return t;
}
static inline struct timespec call_deadline(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  t.tv_nsec += CALL_NS;
  t.tv_sec += t.tv_nsec / 1000000000;
  t.tv_nsec %= 1000000000;
  return t;
}

static inline long long monotonic_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *no_eintr_loop(void *argument) {
  struct timed_call *call = (struct timed_call *)argument;
  while (!no_eintr_go) {
    long long begin = monotonic_ns();
    errno = 0;
    long result = call->run();
    int error = errno;
    long long passed = monotonic_ns() - begin;
    if (result != call->expected || (result == -1 && error != call->expected_errno))
      TEST_FAIL("%s in round %d, expected %ld (errno %d), got %ld (errno %d) after %lld ms",
                call->name, call->rounds, call->expected, call->expected_errno, result, error,
                passed / 1000000);
    if (passed < CALL_NS - EARLY_NS || passed > CALL_NS + LATE_NS)
      TEST_FAIL("%s in round %d, expected %d ms, got %lld us", call->name, call->rounds, CALL_MS,
                passed / 1000);
    call->rounds++;
  }
  return NULL;
}

/* Runs all calls until the runner says go, and ends the program. All signals are blocked, except
 * in a call that opens one for itself. */
__attribute__((noreturn)) static inline void no_eintr_main(struct timed_call *calls, size_t count) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, NULL);
  for (size_t i = 0; i < count; i++)
    REQUIRE(pthread_create(&calls[i].thread, NULL, no_eintr_loop, &calls[i]) == 0);
  usleep(100000); /* into the first calls */
  test_ready();
  test_wait();
  no_eintr_go = 1;
  for (size_t i = 0; i < count; i++) {
    pthread_join(calls[i].thread, NULL);
    CHECK(calls[i].name, calls[i].rounds >= 1);
  }
  test_finish();
}

#endif /* TESTS_SYSTEM_NO_EINTR_H */
