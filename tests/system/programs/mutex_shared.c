/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Process-shared mutexes in shared memory, of a memfd and anonymous: robust ones, with priority
 * inheritance and both. main holds them with a thread waiting for each; another thread holds a
 * robust one with priority inheritance and dies after the restore. A shared semaphore, condition
 * and barrier have waiters too.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

#include "three_phase.h"

enum { kKinds = 4 };
static const char *const kNames[kKinds] = {"shared", "robust", "inheriting", "robust, inheriting"};

struct shared {
  pthread_mutex_t held[kKinds], orphan, cond_mutex;
  pthread_cond_t cond;
  pthread_barrier_t barrier;
  sem_t sem;
  int flag, got[kKinds];
};
static struct shared *places[2];
static pthread_barrier_t built;
static volatile int go;

static void make_mutex(pthread_mutex_t *m, int robust, int inherit) {
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  REQUIRE(pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED) == 0);
  if (robust) REQUIRE(pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST) == 0);
  if (inherit) REQUIRE(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT) == 0);
  REQUIRE(pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK) == 0);
  REQUIRE(pthread_mutex_init(m, &a) == 0);
}

static void make(struct shared *s) {
  pthread_condattr_t ca;
  pthread_barrierattr_t ba;
  for (int i = 0; i < kKinds; i++) {
    make_mutex(&s->held[i], i & 1, i & 2);
    REQUIRE(pthread_mutex_lock(&s->held[i]) == 0);
  }
  make_mutex(&s->orphan, 1, 1);
  make_mutex(&s->cond_mutex, 0, 0);
  pthread_condattr_init(&ca);
  pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
  REQUIRE(pthread_cond_init(&s->cond, &ca) == 0);
  pthread_barrierattr_init(&ba);
  pthread_barrierattr_setpshared(&ba, PTHREAD_PROCESS_SHARED);
  REQUIRE(pthread_barrier_init(&s->barrier, &ba, 2) == 0);
  REQUIRE(sem_init(&s->sem, 1, 0) == 0);
}

static void *lock_waiter(void *argument) {
  const intptr_t number = (intptr_t)argument;
  struct shared *s = places[number / kKinds];
  const int kind = number % kKinds;
  pthread_barrier_wait(&built);
  CHECK_EQ(kNames[kind], 0, pthread_mutex_lock(&s->held[kind]));
  s->got[kind]++;
  CHECK_EQ(kNames[kind], 0, pthread_mutex_unlock(&s->held[kind]));
  return NULL;
}
static void *dying(void *argument) {
  struct shared *s = argument;
  REQUIRE(pthread_mutex_lock(&s->orphan) == 0);
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
  return NULL; /* still holding it */
}
static void *other_waits(void *argument) {
  struct shared *s = argument;
  pthread_barrier_wait(&built);
  CHECK_EQ("sem_wait", 0, sem_wait(&s->sem));
  pthread_mutex_lock(&s->cond_mutex);
  while (!s->flag) CHECK_EQ("pthread_cond_wait", 0, pthread_cond_wait(&s->cond, &s->cond_mutex));
  pthread_mutex_unlock(&s->cond_mutex);
  const int r = pthread_barrier_wait(&s->barrier);
  CHECK("pthread_barrier_wait", r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
  return NULL;
}

static void release(struct shared *s) {
  for (int i = 0; i < kKinds; i++) {
    CHECK_EQ("mutex taken by its waiter too early", 0, s->got[i]);
    CHECK_EQ("relocking it", EDEADLK, pthread_mutex_lock(&s->held[i]));
    CHECK_EQ(kNames[i], 0, pthread_mutex_unlock(&s->held[i]));
  }
  CHECK_EQ("the other's mutex", EBUSY, pthread_mutex_trylock(&s->orphan));
  sem_post(&s->sem);
  pthread_mutex_lock(&s->cond_mutex);
  s->flag = 1;
  pthread_cond_signal(&s->cond);
  pthread_mutex_unlock(&s->cond_mutex);
  pthread_barrier_wait(&s->barrier);
}

int main(void) {
  enum { kThreads = 2 * (kKinds + 2) };
  pthread_t threads[kThreads];
  int n = 0;
  const int fd = memfd_create("locks", MFD_CLOEXEC);
  REQUIRE(fd >= 0 && ftruncate(fd, 4096) == 0);
  places[0] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  places[1] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_barrier_init(&built, NULL, kThreads + 1);
  for (int p = 0; p < 2; p++) {
    REQUIRE(places[p] != MAP_FAILED);
    make(places[p]);
    for (intptr_t i = 0; i < kKinds; i++)
      pthread_create(&threads[n++], NULL, lock_waiter, (void *)(p * kKinds + i));
    pthread_create(&threads[n++], NULL, dying, places[p]);
    pthread_create(&threads[n++], NULL, other_waits, places[p]);
  }
  pthread_barrier_wait(&built);
  usleep(100000); /* let all of them block */
  test_ready();
  test_wait();
  for (int p = 0; p < 2; p++) release(places[p]);
  go = 1;
  for (int i = 0; i < kThreads; i++) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    CHECK_EQ("join", 0, pthread_timedjoin_np(threads[i], NULL, &deadline));
  }
  for (int p = 0; p < 2; p++) {
    for (int i = 0; i < kKinds; i++) CHECK_EQ(kNames[i], 1, places[p]->got[i]);
    CHECK_EQ("the dead thread's", EOWNERDEAD, pthread_mutex_lock(&places[p]->orphan));
    CHECK_EQ("made consistent", 0, pthread_mutex_consistent(&places[p]->orphan));
    CHECK_EQ("unlocked", 0, pthread_mutex_unlock(&places[p]->orphan));
  }
  test_finish();
}
