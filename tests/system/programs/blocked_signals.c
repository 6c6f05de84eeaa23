/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * Threads that block all signals by a raw call, including 32 and 33, which libc would keep open:
 * one spins in user code, one is blocked in read(2), and main waits. No signal can stop them.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/syscall.h>

#include "three_phase.h"

static volatile unsigned long counter;
static volatile int go;
static int wake[2];

static uint64_t raw_mask(const uint64_t *new_mask) {
  uint64_t old = 0;
  REQUIRE(syscall(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, new_mask, &old, 8) == 0);
  return old;
}
static void block_all(void) {
  uint64_t all = ~0ull;
  raw_mask(&all);
}
static void check_all_blocked(const char *who) {
  const uint64_t kKill = 1ull << 8, kStop = 1ull << 18; /* these two cannot be blocked */
  CHECK_EQ(who, ~0ull & ~kKill & ~kStop, raw_mask(NULL));
}

static void *spinner(void *argument) {
  (void)argument;
  block_all();
  while (!go) counter++;
  check_all_blocked("mask of the spinning thread");
  return NULL;
}
static void *reader(void *argument) {
  (void)argument;
  block_all();
  char byte = 0;
  CHECK_EQ("blocked read", 1, read(wake[0], &byte, 1));
  CHECK_EQ("byte read", 'w', byte);
  check_all_blocked("mask of the reading thread");
  return NULL;
}

int main(void) {
  REQUIRE(pipe(wake) == 0);
  pthread_t threads[2];
  pthread_create(&threads[0], NULL, spinner, NULL);
  pthread_create(&threads[1], NULL, reader, NULL);
  block_all();
  while (counter == 0) usleep(1000);
  usleep(50000);
  test_ready();
  test_wait();
  check_all_blocked("mask of main");
  unsigned long before = counter;
  double give_up = test_now() + 20;
  while (counter == before && test_now() < give_up) usleep(1000);
  CHECK("the spinning thread goes on", counter != before);
  go = 1;
  REQUIRE(write(wake[1], "w", 1) == 1);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  test_finish();
}
