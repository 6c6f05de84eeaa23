/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * The vDSO: two threads call clock_gettime, gettimeofday, time and getcpu in a tight loop, so that
 * most checkpoints find one inside the vDSO. Time must never go backwards within a thread, every
 * call must work afterwards, and AT_SYSINFO_EHDR must still point to an ELF image.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/time.h>

#include "three_phase.h"

static volatile int go;
static volatile long rounds[2];
static const clockid_t kForward[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME,
                                     CLOCK_MONOTONIC_RAW};
enum { kForwardClocks = sizeof kForward / sizeof kForward[0] };

static int64_t nanoseconds(clockid_t clock) {
  struct timespec t = {0, 0};
  CHECK_EQ("clock_gettime", 0, clock_gettime(clock, &t));
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void one_round(int64_t last[kForwardClocks]) {
  for (int i = 0; i < kForwardClocks; i++) {
    int64_t now = nanoseconds(kForward[i]);
    if (now < last[i])
      TEST_FAIL("clock %d, expected at least %lld, got %lld", (int)kForward[i], (long long)last[i],
                (long long)now);
    last[i] = now;
  }
  /* The real clocks may be set by others; they must agree with each other. */
  struct timeval tv;
  unsigned cpu, node;
  time_t seconds = time(NULL);
  CHECK_EQ("gettimeofday", 0, gettimeofday(&tv, NULL));
  CHECK_BETWEEN("gettimeofday after time", -1, 60, tv.tv_sec - seconds);
  CHECK_EQ("getcpu", 0, getcpu(&cpu, &node));
  CHECK_BETWEEN("number of the CPU", 0, sysconf(_SC_NPROCESSORS_CONF) - 1, cpu);
}

static void *spin(void *argument) {
  int index = (int)(intptr_t)argument;
  int64_t last[kForwardClocks] = {0};
  while (!go && test_failures == 0) {
    one_round(last);
    rounds[index]++;
  }
  return NULL;
}

int main(void) {
  pthread_t threads[2];
  for (intptr_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, spin, (void *)i);
  while (rounds[0] < 10 || rounds[1] < 10) usleep(1000);
  unsigned long vdso = getauxval(AT_SYSINFO_EHDR);
  time_t begin = time(NULL);
  test_ready();
  test_wait();
  for (int i = 0; i < 2; i++) { /* both still run */
    long before = rounds[i];
    double give_up = test_now() + 20;
    while (rounds[i] < before + 10 && test_now() < give_up && test_failures == 0) usleep(1000);
    CHECK("the thread goes on", rounds[i] >= before + 10 || test_failures != 0);
  }
  go = 1;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  CHECK_EQ("AT_SYSINFO_EHDR", vdso, getauxval(AT_SYSINFO_EHDR));
  if (vdso != 0) CHECK_BYTES("magic of the vDSO", ELFMAG, (const void *)vdso, SELFMAG);
  CHECK_BETWEEN("seconds passed", 0, 600, time(NULL) - begin);
  test_finish();
}
