/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Coroutines by swapcontext() on malloc'ed stacks: the checkpoint comes while main's thread runs on
 * such a stack, with others suspended half way.
 */
#define _GNU_SOURCE
#include <ucontext.h>

#include "three_phase.h"

enum { kCoroutines = 8, kStackBytes = 256 * 1024, kSteps = 10 };
static ucontext_t main_context, contexts[kCoroutines];
static int steps_done[kCoroutines];

static void coroutine(int index) {
  char pattern[5000];
  test_fill(pattern, sizeof pattern, (uint64_t)index);
  for (int step = 0; step < kSteps; step++) {
    if (step == kSteps / 2 &&
        index == kCoroutines - 1) { /* the last one: all others are half way */
      test_ready();
      test_wait();
    }
    steps_done[index]++;
    swapcontext(&contexts[index], &main_context);
  }
  test_check_fill("pattern on a coroutine's stack", pattern, sizeof pattern, (uint64_t)index);
}

int main(void) {
  for (int i = 0; i < kCoroutines; i++) {
    getcontext(&contexts[i]);
    contexts[i].uc_stack.ss_sp = malloc(kStackBytes);
    contexts[i].uc_stack.ss_size = kStackBytes;
    contexts[i].uc_link = &main_context;
    makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
  }
  for (int step = 0; step <= kSteps; step++)
    for (int i = 0; i < kCoroutines; i++) swapcontext(&main_context, &contexts[i]);
  for (int i = 0; i < kCoroutines; i++) CHECK_EQ("steps of a coroutine", kSteps, steps_done[i]);
  test_finish();
}
