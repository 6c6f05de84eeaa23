/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * The checkpoint comes while main is inside a handler on its alternate stack, with a second
 * handler nested in the first; a thread is inside a handler on an SS_AUTODISARM stack, which the
 * kernel reports as disabled until the handler returns.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>

#include "three_phase.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

enum { kStackBytes = 256 * 1024 };
static volatile int go, thread_inside, handlers_done;
static sigset_t mask_in_handler;

static void nested_handler(int number) {
  char local[512];
  test_fill(local, sizeof local, (uint64_t)number);
  stack_t stack;
  sigaltstack(NULL, &stack);
  CHECK_EQ("on the alternate stack, before", SS_ONSTACK, stack.ss_flags);
  sigprocmask(SIG_SETMASK, NULL, &mask_in_handler);
  test_ready();
  test_wait();
  go = 1;
  test_check_fill("local array of the handler", local, sizeof local, (uint64_t)number);
  sigaltstack(NULL, &stack);
  CHECK_EQ("on the alternate stack, after", SS_ONSTACK, stack.ss_flags);
  CHECK_EQ("changing it while in use fails", -1,
           sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL));
  CHECK_EQ("errno of that", EPERM, errno);
  sigset_t mask;
  sigprocmask(SIG_SETMASK, NULL, &mask);
  CHECK_EQ("SIGUSR1 blocked inside", 1, sigismember(&mask, SIGUSR1));
  CHECK_EQ("SIGUSR2 blocked inside", 1, sigismember(&mask, SIGUSR2));
  CHECK_EQ("SIGHUP blocked inside", 0, sigismember(&mask, SIGHUP));
  handlers_done++;
}

static void first_handler(int number) {
  char local[512];
  test_fill(local, sizeof local, (uint64_t)number);
  while (!thread_inside) usleep(1000);
  raise(SIGUSR2);
  test_check_fill("local array of the first handler", local, sizeof local, (uint64_t)number);
  handlers_done++;
}

static void autodisarm_handler(int number) {
  (void)number;
  stack_t stack;
  sigaltstack(NULL, &stack);
  CHECK_EQ("disarmed inside, before", SS_DISABLE, stack.ss_flags);
  thread_inside = 1;
  while (!go) usleep(1000);
  sigaltstack(NULL, &stack);
  CHECK_EQ("disarmed inside, after", SS_DISABLE, stack.ss_flags);
}

static void *autodisarm_thread(void *argument) {
  (void)argument;
  stack_t stack = {
      .ss_sp = malloc(kStackBytes), .ss_size = kStackBytes, .ss_flags = (int)SS_AUTODISARM};
  REQUIRE(sigaltstack(&stack, NULL) == 0);
  pthread_kill(pthread_self(), SIGALRM);
  stack_t after;
  sigaltstack(NULL, &after);
  CHECK_EQ("armed again, flags", (int)SS_AUTODISARM, after.ss_flags);
  CHECK_EQ("armed again, address", (uintptr_t)stack.ss_sp, (uintptr_t)after.ss_sp);
  return NULL;
}

static void install(int number, void (*handler)(int)) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
  sigaction(number, &action, NULL);
}

int main(void) {
  install(SIGUSR1, first_handler);
  install(SIGUSR2, nested_handler);
  install(SIGALRM, autodisarm_handler);
  pthread_t thread;
  pthread_create(&thread, NULL, autodisarm_thread, NULL);
  stack_t stack = {.ss_sp = malloc(kStackBytes), .ss_size = kStackBytes}, after;
  REQUIRE(sigaltstack(&stack, NULL) == 0);
  raise(SIGUSR1);
  CHECK_EQ("handlers that returned", 2, handlers_done);
  sigaltstack(NULL, &after);
  CHECK_EQ("off the alternate stack", 0, after.ss_flags);
  pthread_join(thread, NULL);
  test_finish();
}
