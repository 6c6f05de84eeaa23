/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * Memory that processes share: anonymous, with a process-shared mutex, condition variable and
 * semaphore that the child waits on; a memfd whose descriptor is closed in the parent; an unlinked
 * file; a System V segment. What was private at fork stays apart.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kBytes = 256 * 1024 };

struct common {
  pthread_mutex_t mutex;
  pthread_cond_t cond;
  sem_t begin, end;
  long turn, wakes;
  unsigned char data[kBytes];
};
static struct common *common;
static long *by_memfd, *by_file, *by_segment;
static long apart = 1;

static void child(void) {
  apart = 2;
  for (;;) {
    sem_wait(&common->begin);
    pthread_mutex_lock(&common->mutex);
    while (common->turn == 0) pthread_cond_wait(&common->cond, &common->mutex);
    const long turn = common->turn;
    common->turn = 0;
    common->wakes++;
    *by_memfd += 1;
    *by_file += 10;
    *by_segment += 100;
    common->data[kBytes - 1 - turn] = (unsigned char)turn;
    pthread_mutex_unlock(&common->mutex);
    sem_post(&common->end);
    if (turn == 99) _exit((int)apart);
  }
}

static void build(void) {
  common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(common != MAP_FAILED);
  pthread_mutexattr_t m;
  pthread_condattr_t c;
  pthread_mutexattr_init(&m);
  pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED);
  pthread_condattr_init(&c);
  pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&common->mutex, &m);
  pthread_cond_init(&common->cond, &c);
  sem_init(&common->begin, 1, 0);
  sem_init(&common->end, 1, 0);
  test_fill(common->data, kBytes / 2, 7);
  int fd = memfd_create("tree", MFD_CLOEXEC);
  REQUIRE(fd >= 0 && ftruncate(fd, 4096) == 0);
  by_memfd = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  fd = open("unlinked", O_CREAT | O_EXCL | O_RDWR, 0600);
  REQUIRE(fd >= 0 && ftruncate(fd, 8192) == 0 && unlink("unlinked") == 0);
  by_file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
  REQUIRE(id >= 0);
  by_segment = shmat(id, NULL, 0);
  REQUIRE(shmctl(id, IPC_RMID, NULL) == 0);
  REQUIRE(by_memfd != MAP_FAILED && by_file != MAP_FAILED && by_segment != (void *)-1);
}

static void take_turn(long turn) {
  sem_post(&common->begin);
  usleep(3000); /* it waits for the condition */
  pthread_mutex_lock(&common->mutex);
  common->turn = turn;
  pthread_cond_signal(&common->cond);
  pthread_mutex_unlock(&common->mutex);
  sem_wait(&common->end);
}

int main(void) {
  build();
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) child();
  take_turn(1);
  sem_post(&common->begin);
  usleep(20000);
  test_ready();
  test_wait();
  pthread_mutex_lock(&common->mutex);
  common->turn = 2;
  pthread_cond_signal(&common->cond);
  pthread_mutex_unlock(&common->mutex);
  sem_wait(&common->end);
  for (long turn = 3; turn < 10; turn++) take_turn(turn);
  CHECK_EQ("turns", 9, common->wakes);
  CHECK_EQ("memfd", 9, *by_memfd);
  CHECK_EQ("unlinked file", 90, *by_file);
  CHECK_EQ("segment", 900, *by_segment);
  test_check_fill("shared data", common->data, kBytes / 2, 7);
  for (long turn = 1; turn < 10; turn++) {
    CHECK_EQ("what the child wrote", turn, common->data[kBytes - 1 - turn]);
  }
  take_turn(99);
  int status = 0;
  CHECK_EQ("waitpid", pid, waitpid(pid, &status, 0));
  CHECK_EQ("private memory of the child", 2, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  CHECK_EQ("private memory of the parent", 1, apart);
  test_finish();
}
