/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often kill=later
 *
 * System V semaphores: values, owner's permissions, one that was removed and one that nobody has
 * used yet; what the end of a process undoes (SEM_UNDO), of a child too; a wait in progress; values
 * that change after the checkpoint; a set that the program knows by no call of the C library's.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kCounter, kLock, kNegative, kWaited, kMany };
static int set, unused, raw_set, go[2];

static int operate(int which, int number, int by, int flags) {
  struct sembuf op = {(unsigned short)number, (short)by, (short)flags};
  return semop(which, &op, 1);
}
static int value(int which, int number) { return semctl(which, number, GETVAL); }

static void *waiter(void *argument) {
  (void)argument;
  return (void *)(long)operate(set, kWaited, -1, 0);
}

/* Holds the lock as long as it lives. */
static void holder(void) {
  char byte;
  if (operate(set, kLock, -1, SEM_UNDO) != 0) _exit(1);
  if (operate(set, kNegative, 3, SEM_UNDO) != 0) _exit(2);
  if (write(go[1], "h", 1) != 1) _exit(3);
  while (read(go[0], &byte, 1) == 1 && byte != 'q') usleep(1000);
  _exit(0);
}

static void user(void) {
  int to[2], from[2];
  REQUIRE((unused = semget(IPC_PRIVATE, 2, 0600)) >= 0);
  REQUIRE((raw_set = (int)syscall(SYS_semget, IPC_PRIVATE, 1, 0600)) >= 0);
  REQUIRE(syscall(SYS_semctl, raw_set, 0, SETVAL, 41) == 0);
  FILE *ids = fopen("sets", "w");
  REQUIRE(ids != NULL && fprintf(ids, "%d %d %d\n", set, unused, raw_set) > 0 && fclose(ids) == 0);
  int gone = semget(IPC_PRIVATE, 1, 0600);
  REQUIRE(gone >= 0 && semctl(gone, 0, IPC_RMID) == 0);
  REQUIRE(semctl(set, kCounter, SETVAL, 5) == 0 && semctl(set, kLock, SETVAL, 1) == 0);
  REQUIRE(operate(set, kCounter, -2, SEM_UNDO) == 0 && operate(set, kCounter, 1, 0) == 0);
  REQUIRE(pipe(to) == 0 && pipe(from) == 0);
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    go[0] = to[0];
    go[1] = from[1];
    holder();
  }
  char byte;
  REQUIRE(read(from[0], &byte, 1) == 1);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, waiter, NULL) == 0);
  while (semctl(set, kWaited, GETNCNT) != 1) usleep(1000);
  test_ready();
  while (!test_poll()) {
    /* What is done after a checkpoint is undone by the restore. */
    REQUIRE(operate(set, kCounter, 7, 0) == 0 && operate(set, kCounter, -7, 0) == 0);
    REQUIRE(operate(set, kCounter, -1, SEM_UNDO) == 0 && operate(set, kCounter, 1, SEM_UNDO) == 0);
    usleep(100);
  }
  CHECK_EQ("the counter", 4, value(set, kCounter));
  CHECK_EQ("the lock is held", 0, value(set, kLock));
  CHECK_EQ("it cannot be had", -1, operate(set, kLock, -1, IPC_NOWAIT));
  CHECK_EQ("because it is held", EAGAIN, errno);
  CHECK_EQ("what the child has added", 3, value(set, kNegative));
  CHECK_EQ("nobody has used it", 0, value(unused, 1));
  CHECK_EQ("the set that nobody told of", 41, value(raw_set, 0));
  CHECK_EQ("the one that was removed", -1, value(gone, 0));
  struct semid_ds ds;
  union {
    struct semid_ds *status;
    long word;
  } argument = {.status = &ds};
  CHECK_EQ("status", 0, semctl(set, 0, IPC_STAT, argument.word));
  CHECK_EQ("permissions", 0640, ds.sem_perm.mode & 0777);
  CHECK_EQ("owner", getuid(), ds.sem_perm.uid);
  CHECK("it was used", ds.sem_otime != 0);
  CHECK_EQ("status", 0, semctl(unused, 0, IPC_STAT, argument.word));
  CHECK_EQ("that was not", 0, ds.sem_otime);
  const double give_up = test_now() + 20; /* the other thread may get back to it a little later */
  while (semctl(set, kWaited, GETNCNT) != 1 && test_now() < give_up) usleep(1000);
  CHECK_EQ("one waits", 1, semctl(set, kWaited, GETNCNT));
  CHECK_EQ("it is let go", 0, operate(set, kWaited, 1, 0));
  void *got = (void *)-2;
  CHECK_EQ("joined", 0, pthread_join(thread, &got));
  CHECK_EQ("the wait has ended well", 0, (long)got);
  CHECK_EQ("the child is told", 1, write(to[1], "q", 1));
  int status = -1;
  CHECK_EQ("the child", child, waitpid(child, &status, 0));
  CHECK_EQ("it ended well", 0, status);
  CHECK_EQ("its lock is free again", 1, value(set, kLock));
  CHECK_EQ("its addition is taken back", 0, value(set, kNegative));
  CHECK_EQ("removed", 0, semctl(unused, 0, IPC_RMID));
  CHECK_EQ("removed", 0, semctl(raw_set, 0, IPC_RMID));
  exit(test_failures != 0);
}

/* The end of the process that uses them shows what is undone. */
int main(void) {
  REQUIRE((set = semget(IPC_PRIVATE, kMany, 0640)) >= 0);
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) user();
  int status = -1;
  CHECK_EQ("waited for", pid, waitpid(pid, &status, 0));
  CHECK_EQ("it found everything", 0, status);
  CHECK_EQ("its subtraction is taken back", 6, value(set, kCounter));
  CHECK_EQ("removed", 0, semctl(set, 0, IPC_RMID));
  test_finish();
}
