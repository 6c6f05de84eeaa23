/* SPDX-License-Identifier: MIT */
/* crtest: mode=often,cycles kill=later timeout=180
 *
 * Four threads and a signal handler change files of their own all the time, each in a way that
 * loses what was before, and each knows what must be there; checkpoints and kills come at any
 * moment, also while a thread is about to make the change. A record lock on one of the files stays.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kThreads = 4, kHandler = kThreads };
static uint64_t done[kThreads + 1]; /* what the files of each say */
static volatile int stop;

/* No stdio: a handler does this too. */
static void put(const char *path, int flags, uint64_t value) {
  const int fd = open(path, flags | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(fd >= 0 && pwrite(fd, &value, sizeof value, 0) == sizeof value);
  close(fd);
}

static uint64_t get(const char *path) {
  uint64_t value = ~0ull;
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, &value, sizeof value) != sizeof value) value = ~0ull;
  close(fd);
  return value;
}

/* Three ways to lose the old content; the number is written down when all are through. */
static void step(int i) {
  char a[] = "a.?", b[] = "b.?", c[] = "c.?", fresh[] = "fresh.?";
  a[2] = b[2] = c[2] = fresh[6] = (char)('0' + i);
  if (get(a) != done[i] || get(b) != done[i] || get(c) != done[i] || access(fresh, F_OK) == 0) {
    TEST_FAIL("files of %d, expected %llu, got %llu %llu %llu, fresh %d", i,
              (unsigned long long)done[i], (unsigned long long)get(a), (unsigned long long)get(b),
              (unsigned long long)get(c), access(fresh, F_OK));
    stop = 1;
    return;
  }
  const uint64_t next = done[i] + 1;
  put(a, O_WRONLY | O_TRUNC, next);
  put(fresh, O_WRONLY | O_EXCL, next);
  REQUIRE(rename(fresh, b) == 0);
  REQUIRE(unlink(c) == 0);
  put(c, O_WRONLY | O_EXCL, next);
  done[i] = next;
}

static void *work(void *argument) {
  const int i = (int)(intptr_t)argument;
  while (!stop) {
    step(i);
    usleep(300);
  }
  return NULL;
}

static void on_alarm(int number) {
  (void)number;
  const int saved = errno;
  if (!stop) step(kHandler);
  errno = saved;
}

int main(void) {
  char name[] = "a.?";
  for (int i = 0; i <= kThreads; i++) {
    for (char letter = 'a'; letter <= 'c'; letter++) {
      name[0] = letter;
      name[2] = (char)('0' + i);
      put(name, O_WRONLY | O_TRUNC, 0);
    }
  }
  /* Whoever opened and closed this file in this process would drop the lock. */
  const int locked = open("a.0", O_RDWR);
  struct flock lock = {.l_type = F_WRLCK, .l_len = 1, .l_start = 100};
  put("locked", O_WRONLY, 5);
  const int locked_fd = open("locked", O_RDWR);
  REQUIRE(locked >= 0 && locked_fd >= 0 && fcntl(locked_fd, F_SETLK, &lock) == 0);
  close(locked);
  sigset_t alarm_only;
  sigemptyset(&alarm_only);
  sigaddset(&alarm_only, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &alarm_only, NULL); /* of the threads */
  pthread_t threads[kThreads];
  for (int i = 0; i < kThreads; i++)
    REQUIRE(pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i) == 0);
  pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  const struct itimerval often = {{0, 2000}, {0, 2000}};
  setitimer(ITIMER_REAL, &often, NULL);
  test_ready();
  test_wait();
  stop = 1;
  for (int i = 0; i < kThreads; i++) pthread_join(threads[i], NULL);
  const struct itimerval never = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &never, NULL);
  for (int i = 0; i <= kThreads; i++) {
    stop = 0;
    step(i);
  }
  REQUIRE(open("locked", O_RDWR) >=
          0); /* and stays open: a copy is made, the lock is not dropped */
  const pid_t child = fork();
  if (child == 0) {
    lock.l_type = F_WRLCK;
    _exit(fcntl(locked_fd, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK_EQ("the record lock is held", 0, status);
  test_finish();
}
