/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Alternate signal stacks that are set but not in use: one in main, one with SS_AUTODISARM and
 * one disabled again in threads. Handlers run on them afterwards.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>

#include "three_phase.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

enum { kStackBytes = 128 * 1024 };
static pthread_barrier_t built;
static volatile int go;
static __thread volatile uintptr_t handler_frame;

static void handler(int number) {
  (void)number;
  handler_frame = (uintptr_t)__builtin_frame_address(0);
}

static void hold(unsigned flags, void (*wait)(void)) {
  char *memory = malloc(kStackBytes);
  stack_t stack = {.ss_sp = memory, .ss_size = kStackBytes, .ss_flags = (int)flags};
  REQUIRE(sigaltstack(&stack, NULL) == 0);
  wait();
  stack_t after;
  sigaltstack(NULL, &after);
  CHECK_EQ("alternate stack flags", (int)flags, after.ss_flags);
  if (flags & SS_DISABLE) return;
  CHECK_EQ("alternate stack address", (uintptr_t)memory, (uintptr_t)after.ss_sp);
  CHECK_EQ("alternate stack size", kStackBytes, after.ss_size);
  for (int i = 0; i < 2; i++) { /* twice: the first return must leave it usable */
    handler_frame = 0;
    raise(SIGUSR1);
    CHECK("handler ran on the alternate stack",
          handler_frame >= (uintptr_t)memory && handler_frame < (uintptr_t)memory + kStackBytes);
  }
  sigaltstack(NULL, &after);
  CHECK_EQ("alternate stack flags after a handler", (int)flags, after.ss_flags);
}

static void wait_for_main(void) {
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
}
static void wait_for_runner(void) {
  pthread_barrier_wait(&built);
  test_ready();
  test_wait();
  go = 1;
}
static void *worker(void *flags) {
  hold((unsigned)(uintptr_t)flags, wait_for_main);
  return NULL;
}

int main(void) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
  sigaction(SIGUSR1, &action, NULL);
  pthread_barrier_init(&built, NULL, 3);
  pthread_t threads[2];
  pthread_create(&threads[0], NULL, worker, (void *)(uintptr_t)SS_AUTODISARM);
  pthread_create(&threads[1], NULL, worker, (void *)(uintptr_t)SS_DISABLE);
  hold(0, wait_for_runner);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  test_finish();
}
