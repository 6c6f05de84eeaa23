/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Jump buffers filled before the checkpoint (glibc mangles their pointers with a secret that must
 * not change) and used afterwards, with and without a signal mask.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>

#include "three_phase.h"

static jmp_buf plain;
static sigjmp_buf with_mask;

static __attribute__((noinline)) void jump_from_below(int depth) {
  volatile char frame[1000];
  frame[0] = (char)depth;
  if (depth > 0) jump_from_below(depth - 1);
  if (frame[0] == 0) longjmp(plain, 31); /* only the deepest frame does */
}

int main(void) {
  volatile int jumps = 0, waited = 0;
  volatile uint64_t local = test_pattern(1, 1);
  sigset_t mask, now;

  if (sigsetjmp(with_mask, 1) != 0) { /* saved with nothing blocked */
    jumps++;
    sigprocmask(SIG_SETMASK, NULL, &now);
    CHECK_EQ("SIGUSR1 blocked after siglongjmp", 0, sigismember(&now, SIGUSR1));
  }
  int value = setjmp(plain);
  if (value != 0) {
    jumps++;
    CHECK_EQ("value of setjmp", 31, value);
    CHECK_EQ("local variable", test_pattern(1, 1), local);
  }
  if (!waited) {
    waited = 1;
    test_ready();
    test_wait();
  }
  if (jumps == 0) jump_from_below(20);
  if (jumps == 1) {
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    siglongjmp(with_mask, 1);
  }
  CHECK_EQ("jumps", 2, jumps);
  test_finish();
}
