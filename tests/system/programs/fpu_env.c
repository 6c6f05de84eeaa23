/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * Floating-point environments: rounding mode, flush-to-zero, exception masks and sticky flags of
 * MXCSR, control word and tag state of the x87 unit; different in each of three threads.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "three_phase.h"

struct environment {
  uint32_t mxcsr;
  uint16_t x87_control;
};
static const struct environment kEnvironments[3] = {
    {0x1f80 | 0x6000 | 0x8000 | 0x40, 0x037f | 0x0c00}, /* toward zero, FTZ, DAZ; x87 toward zero */
    {0x1f80 | 0x4000 | 0x01, 0x027f | 0x0800},          /* up, sticky IE; x87 up, 53 bits */
    {(0x1f80 & ~0x0200u) | 0x2000 | 0x20, 0x007b},      /* down, division by zero unmasked, PE */
};

static pthread_barrier_t ready;
static volatile int go;

static uint32_t get_mxcsr(void) {
  uint32_t value;
  __asm__ volatile("stmxcsr %0" : "=m"(value));
  return value;
}
static uint16_t get_x87_control(void) {
  uint16_t value;
  __asm__ volatile("fnstcw %0" : "=m"(value));
  return value;
}
static void set_environment(const struct environment *e) {
  __asm__ volatile("ldmxcsr %0\n\tfldcw %1" ::"m"(e->mxcsr), "m"(e->x87_control));
}

/* The bits of 1/3 depend on the rounding mode. */
static uint64_t third_sse(void) {
  volatile double one = 1.0, three = 3.0;
  double result = one / three;
  uint64_t bits;
  memcpy(&bits, &result, sizeof bits);
  return bits;
}
static uint64_t third_x87(void) {
  volatile long double one = 1.0L, three = -3.0L;
  long double result = one / three;
  uint64_t mantissa;
  memcpy(&mantissa, &result, sizeof mantissa);
  return mantissa;
}

static void hold(const struct environment *e, void (*wait)(void)) {
  set_environment(e);
  uint64_t sse = third_sse(), x87 = third_x87();
  set_environment(e); /* again: the division left its sticky flag */
  wait();
  uint32_t mxcsr = get_mxcsr();
  uint16_t control = get_x87_control();
  CHECK_EQ("MXCSR", e->mxcsr, mxcsr);
  CHECK_EQ("x87 control word", e->x87_control, control);
  CHECK_EQ("bits of 1/3 (SSE)", sse, third_sse());
  CHECK_EQ("bits of -1/3 (x87)", x87, third_x87());
}

static void wait_for_main(void) {
  pthread_barrier_wait(&ready);
  while (!go) usleep(1000);
}
static void wait_for_runner(void) {
  pthread_barrier_wait(&ready);
  test_ready();
  test_wait();
  go = 1;
}
static void *worker(void *e) {
  hold(e, wait_for_main);
  return NULL;
}

int main(void) {
  pthread_t threads[2];
  pthread_barrier_init(&ready, NULL, 3);
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, worker, (void *)&kEnvironments[i]);
  hold(&kEnvironments[2], wait_for_runner);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  test_finish();
}
