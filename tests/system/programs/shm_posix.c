/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live kill=later
 *
 * POSIX shared memory with its name and without, a mutex in it, and named semaphores, one of which
 * a thread waits for.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kPage = 4096, kBytes = 6 * kPage };
struct area {
  pthread_mutex_t mutex;
  uint64_t count;
  char rest[];
};
static struct area *named, *gone;
static uint64_t count;
static sem_t *posted, *waited;
static int woken;

static void step(void) {
  count++;
  pthread_mutex_lock(&named->mutex);
  named->count = count;
  pthread_mutex_unlock(&named->mutex);
  gone->count = count;
}

static void *waiter(void *unused) {
  (void)unused;
  REQUIRE(sem_wait(waited) == 0);
  __atomic_store_n(&woken, 1, __ATOMIC_RELEASE);
  return NULL;
}

static struct area *make(const char *name, int *ret_fd) {
  int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
  REQUIRE(fd >= 0 && ftruncate(fd, kBytes) == 0);
  struct area *a = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  REQUIRE(a != MAP_FAILED);
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&a->mutex, &attr);
  test_fill(a->rest, kBytes - sizeof *a, 9);
  *ret_fd = fd;
  return a;
}

int main(void) {
  char name[64], other[64], sem[64];
  snprintf(name, sizeof name, "/crtest-%d-a", (int)getpid());
  snprintf(other, sizeof other, "/crtest-%d-b", (int)getpid());
  snprintf(sem, sizeof sem, "/crtest-%d-s", (int)getpid());
  int fd, gone_fd;
  named = make(name, &fd);
  gone = make(other, &gone_fd);
  REQUIRE(shm_unlink(other) == 0);
  posted = sem_open(sem, O_CREAT | O_EXCL, 0600, 3);
  REQUIRE(posted != SEM_FAILED);
  char second[70];
  snprintf(second, sizeof second, "%s2", sem);
  waited = sem_open(second, O_CREAT | O_EXCL, 0600, 0);
  REQUIRE(waited != SEM_FAILED && sem_unlink(second) == 0);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, waiter, NULL) == 0);
  test_ready();
  test_wait_doing(step);

  CHECK_BETWEEN("counter", (long long)count - 1, (long long)count, (long long)named->count);
  CHECK_BETWEEN("counter without a name", (long long)count - 1, (long long)count,
                (long long)gone->count);
  test_check_fill("content", named->rest, kBytes - sizeof *named, 9);
  test_check_fill("content without a name", gone->rest, kBytes - sizeof *gone, 9);
  int again = shm_open(name, O_RDWR, 0);
  CHECK("opened by its name", again >= 0);
  named->rest[7] = 'n';
  char byte = 0;
  CHECK_EQ("pread", 1, pread(again, &byte, 1, (off_t)sizeof *named + 7));
  CHECK_EQ("the same memory", 'n', byte);
  CHECK_EQ("pread", 1, pread(fd, &byte, 1, (off_t)sizeof *named + 7));
  CHECK_EQ("and by the old descriptor", 'n', byte);
  gone->rest[7] = 'g';
  CHECK_EQ("pread", 1, pread(gone_fd, &byte, 1, (off_t)sizeof *gone + 7));
  CHECK_EQ("also without a name", 'g', byte);
  struct stat st;
  CHECK_EQ("still no name", 0, fstat(gone_fd, &st) | (int)st.st_nlink);

  int value = -1;
  CHECK_EQ("sem_getvalue", 0, sem_getvalue(posted, &value));
  CHECK_EQ("value", 3, value);
  sem_t *same = sem_open(sem, 0);
  CHECK_EQ("sem_post", 0, sem_post(same));
  CHECK_EQ("sem_getvalue", 0, sem_getvalue(posted, &value));
  CHECK_EQ("value after a post by name", 4, value);
  char path[80];
  unsigned in_file = 0; /* glibc has the value first */
  snprintf(path, sizeof path, "/dev/shm/sem.%s", sem + 1);
  int sem_fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK_EQ("pread of the semaphore", sizeof in_file, pread(sem_fd, &in_file, sizeof in_file, 0));
  CHECK_EQ("value that others see by its name", 4, in_file);
  usleep(20000);
  CHECK_EQ("waits on", 0, __atomic_load_n(&woken, __ATOMIC_ACQUIRE));
  CHECK_EQ("sem_post", 0, sem_post(waited));
  CHECK_EQ("pthread_join", 0, pthread_join(thread, NULL));
  CHECK_EQ("was woken", 1, woken);
  CHECK_EQ("shm_unlink", 0, shm_unlink(name));
  CHECK_EQ("sem_unlink", 0, sem_unlink(sem));
  test_finish();
}
