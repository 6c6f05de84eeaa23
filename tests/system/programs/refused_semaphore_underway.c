/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:a thread is about to note a change of a semaphore
 *
 * A thread is between a call with SEM_UNDO and the note of what the call has done: a signal handler
 * holds it there. Whether the kernel has done it already nobody can tell.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/sem.h>

#include "three_phase.h"

static volatile int inside, done;
static int set;

static void hold(int number) {
  (void)number;
  inside = 1;
  while (!done) usleep(1000);
}

static void *operate(void *argument) {
  struct sembuf op = {0, -1, SEM_UNDO};
  CHECK_EQ("semop", -1, semop(set, &op, 1));
  CHECK_EQ("was interrupted", EINTR, errno);
  return argument;
}

int main(void) {
  pthread_t thread;
  struct sigaction action = {.sa_handler = hold};
  REQUIRE((set = semget(IPC_PRIVATE, 1, 0600)) >= 0 && sigaction(SIGUSR1, &action, NULL) == 0);
  REQUIRE(pthread_create(&thread, NULL, operate, NULL) == 0);
  while (semctl(set, 0, GETNCNT) != 1) usleep(1000);
  REQUIRE(pthread_kill(thread, SIGUSR1) == 0);
  while (!inside) usleep(1000);
  test_ready();
  test_wait();
  done = 1;
  REQUIRE(pthread_join(thread, NULL) == 0);
  CHECK_EQ("removed", 0, semctl(set, 0, IPC_RMID));
  test_finish();
}
