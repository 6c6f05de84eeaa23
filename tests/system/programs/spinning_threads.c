/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live kill=later users=root,nobody
 *
 * Far more threads than processors, none of which ever waits: after a restore it takes long until
 * the last of them has run for the first time. Every one must go on counting, and each keeps its
 * own number in a register-only sum.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "three_phase.h"

enum { kThreads = 40 };
static volatile int go;
static volatile uint64_t counts[kThreads];

static void *spin(void *argument) {
  const uint64_t index = (uint64_t)(intptr_t)argument;
  uint64_t count = 0, sum = 0;
  while (!go) {
    count++;
    sum += index;
    __asm__ volatile("" : "+r"(count), "+r"(sum));
    counts[index] = count;
  }
  CHECK_EQ("sum of a thread", count * index, sum);
  CHECK_EQ("count of a thread", count, counts[index]);
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; i++)
    REQUIRE(pthread_create(&threads[i], NULL, spin, (void *)i) == 0);
  for (int i = 0; i < kThreads; i++)
    while (counts[i] == 0) usleep(1000);
  test_ready();
  test_wait();
  static uint64_t before[kThreads];
  for (int i = 0; i < kThreads; i++) before[i] = counts[i];
  const double give_up = test_now() + 40;
  for (int i = 0; i < kThreads; i++) {
    while (counts[i] == before[i] && test_now() < give_up) usleep(1000);
    CHECK("the thread goes on", counts[i] != before[i]);
  }
  go = 1;
  for (int i = 0; i < kThreads; i++) pthread_join(threads[i], NULL);
  test_finish();
}
