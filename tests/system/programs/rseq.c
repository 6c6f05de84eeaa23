/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * The restartable-sequences area that glibc registered for each thread is registered again after
 * a restore: the kernel keeps its cpu_id current, and sched_getcpu() is right on each CPU.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/rseq.h>

#include "three_phase.h"

static pthread_barrier_t built;
static volatile int go;

static const volatile struct rseq *own_area(void) {
  return (const volatile struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void check_each_cpu(const char *who) {
  cpu_set_t all, one;
  CHECK("sched_getaffinity", sched_getaffinity(0, sizeof all, &all) == 0);
  char what[64];
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &all)) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    CHECK("sched_setaffinity", sched_setaffinity(0, sizeof one, &one) == 0);
    snprintf(what, sizeof what, "rseq cpu_id of %s", who);
    CHECK_EQ(what, cpu, own_area()->cpu_id);
    CHECK_EQ("rseq cpu_id_start", cpu, own_area()->cpu_id_start);
    CHECK_EQ("sched_getcpu", cpu, sched_getcpu());
  }
  CHECK("sched_setaffinity back", sched_setaffinity(0, sizeof all, &all) == 0);
}

static void *worker(void *argument) {
  (void)argument;
  check_each_cpu("the thread, before");
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
  check_each_cpu("the thread");
  return NULL;
}

int main(void) {
  if (__rseq_size == 0) test_skip("this libc or kernel registers no rseq area");
  pthread_t thread;
  pthread_barrier_init(&built, NULL, 2);
  pthread_create(&thread, NULL, worker, NULL);
  check_each_cpu("main, before");
  pthread_barrier_wait(&built);
  test_ready();
  test_wait();
  check_each_cpu("main");
  go = 1;
  pthread_join(thread, NULL);
  test_finish();
}
