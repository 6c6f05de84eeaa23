/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * The main thread has called pthread_exit(); the process lives on in its workers. (Its leader is
 * then a zombie, /proc/self/maps is empty, and the exit status comes from another thread.)
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/syscall.h>

#include "three_phase.h"

static pthread_barrier_t rendezvous;
static pid_t tids[3];
static volatile int go;

static char main_state(void) {
  char text[4096];
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)getpid());
  if (test_read_file(path, text, sizeof text) < 0) return '?';
  char *end = strrchr(text, ')');
  return end != NULL ? end[2] : '?';
}

static void *worker(void *argument) {
  int index = (int)(intptr_t)argument;
  tids[index] = gettid();
  pthread_barrier_wait(&rendezvous);
  while (!go) usleep(1000);
  CHECK_EQ("thread id of a worker", tids[index], gettid());
  return (void *)(intptr_t)(index + 40);
}

static void *leading_worker(void *argument) {
  pthread_t *others = argument;
  pid_t pid = getpid();
  pthread_barrier_wait(&rendezvous);
  while (main_state() != 'Z') usleep(1000);
  test_ready();
  test_wait();
  CHECK_EQ("pid", pid, getpid());
  go = 1;
  for (int i = 1; i < 3; i++) {
    void *result;
    CHECK_EQ("pthread_join", 0, pthread_join(others[i], &result));
    CHECK_EQ("result of a worker", i + 40, (intptr_t)result);
  }
  test_finish();
}

int main(void) {
  static pthread_t threads[3];
  pthread_barrier_init(&rendezvous, NULL, 3);
  for (int i = 1; i < 3; i++) pthread_create(&threads[i], NULL, worker, (void *)(intptr_t)i);
  pthread_create(&threads[0], NULL, leading_worker, threads);
  pthread_exit(NULL);
}
