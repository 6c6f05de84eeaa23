/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * The first thread sleeps with its stack pointer just above the lowest page of its stack: what the
 * checkpointer writes below it, so that the sleep goes on with the time left, makes the stack grow.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "three_phase.h"

static volatile int done;

static void *others(void *argument) {
  test_ready();
  test_wait();
  done = 1;
  return argument;
}

/* Without a call, which would touch the page below. */
static inline long sleep_here(const struct timespec *time) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "0"(SYS_nanosleep), "D"(time), "S"(0)
                   : "rcx", "r11", "memory");
  return result;
}

static __attribute__((noinline)) long sleep_deep(void) {
  static const struct timespec time = {0, 20000000};
  enum { kDeep = 512 << 10, kPage = 4096, kAbove = 96 };
  const uintptr_t here = (uintptr_t)__builtin_frame_address(0);
  volatile char *lowest = alloca(kDeep + (here - kDeep) % kPage - kAbove);
  lowest[0] = 1;
  long failed = 0;
  while (!done) failed += sleep_here(&time) != 0;
  return failed + lowest[0] - 1;
}

int main(void) {
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, others, NULL) == 0);
  CHECK_EQ("sleeps that failed", 0, sleep_deep());
  CHECK_EQ("join", 0, pthread_join(thread, NULL));
  test_finish();
}
