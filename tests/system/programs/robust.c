/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Robust mutexes: one held by main across the checkpoints and unlocked afterwards; one whose
 * holder dies after the restore, so that the kernel must find it through the thread's robust list
 * and the next locker gets EOWNERDEAD.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/syscall.h>

#include "three_phase.h"

static pthread_mutex_t mine, orphan;
static pthread_barrier_t held;
static volatile int go;

static void *robust_head(void) {
  void *head = NULL;
  size_t length = 0;
  REQUIRE(syscall(SYS_get_robust_list, 0, &head, &length) == 0);
  return head;
}

static void *holder(void *argument) {
  (void)argument;
  void *head = robust_head();
  pthread_mutex_lock(&orphan);
  pthread_barrier_wait(&held);
  while (!go) usleep(1000);
  CHECK_EQ("robust list of the thread", (uintptr_t)head, (uintptr_t)robust_head());
  return NULL; /* still holding it */
}

int main(void) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  pthread_mutex_init(&mine, &attributes);
  pthread_mutex_init(&orphan, &attributes);
  pthread_barrier_init(&held, NULL, 2);
  pthread_t thread;
  pthread_create(&thread, NULL, holder, NULL);
  pthread_mutex_lock(&mine);
  void *head = robust_head();
  pthread_barrier_wait(&held);
  test_ready();
  test_wait();
  CHECK_EQ("robust list of main", (uintptr_t)head, (uintptr_t)robust_head());
  CHECK_EQ("unlocking the held mutex", 0, pthread_mutex_unlock(&mine));
  CHECK_EQ("its next lock", 0, pthread_mutex_lock(&mine));
  CHECK_EQ("trylock of the other's mutex", EBUSY, pthread_mutex_trylock(&orphan));
  go = 1;
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += 20;
  CHECK_EQ("lock after its holder's death", EOWNERDEAD,
           pthread_mutex_timedlock(&orphan, &deadline));
  CHECK_EQ("pthread_mutex_consistent", 0, pthread_mutex_consistent(&orphan));
  CHECK_EQ("unlock of the recovered mutex", 0, pthread_mutex_unlock(&orphan));
  pthread_join(thread, NULL);
  test_finish();
}
