/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later timeout=240
 *
 * A hundred threads change a file each at the same time, more than there are slots in the journal,
 * and each file is so large that copying it takes a while: after each restore every file is its
 * own, and what it was. In the end more threads than there are slots end in the middle of a call,
 * and files can be opened as before.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/syscall.h>

#include "three_phase.h"

enum { kThreads = 100, kBytes = 300000, kEnding = 150 };
static struct head { uint64_t thread, steps; } heads[kThreads]; /* what the files begin with */
static pthread_barrier_t all;

static void name_of(char *name, uint64_t i) { sprintf(name, "file.%03u", (unsigned)i); }

static void check(uint64_t i) {
  struct head now = {~0ull, ~0ull};
  static const char kRest[] = "the rest";
  char name[16], rest[sizeof kRest] = "";
  name_of(name, i);
  const int fd = open(name, O_RDONLY | O_CLOEXEC);
  const int whole = fd >= 0 && read(fd, &now, sizeof now) == sizeof now &&
                    pread(fd, rest, sizeof rest, kBytes) == sizeof rest;
  if (!whole || memcmp(&now, &heads[i], sizeof now) != 0 || strcmp(rest, kRest) != 0)
    TEST_FAIL("file %llu, expected step %llu, got %llu of file %llu, then \"%s\"",
              (unsigned long long)i, (unsigned long long)heads[i].steps,
              (unsigned long long)now.steps, (unsigned long long)now.thread, rest);
  close(fd);
}

static void *change(void *argument) {
  const uint64_t i = (uint64_t)(uintptr_t)argument;
  char name[16];
  name_of(name, i);
  struct head next = {i, heads[i].steps + 1};
  pthread_barrier_wait(&all);
  const int fd = open(name, O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0 && pwrite(fd, &next, sizeof next, 0) == sizeof next);
  heads[i] = next;
  close(fd);
  return NULL;
}

static void step(void) {
  pthread_t threads[kThreads];
  for (uint64_t i = 0; i < kThreads; i++) check(i);
  for (uint64_t i = 0; i < kThreads; i++)
    REQUIRE(pthread_create(&threads[i], NULL, change, (void *)(uintptr_t)i) == 0);
  for (uint64_t i = 0; i < kThreads; i++) pthread_join(threads[i], NULL);
}

static _Thread_local volatile int inside;
static volatile int ended;

static void end_here(int number) {
  (void)number;
  if (!inside) return;
  ended = 1;
  syscall(SYS_exit, 0);
}

static void *open_for_ever(void *argument) {
  for (;;) {
    inside = 1;
    const int fd = open((const char *)argument, O_RDWR | O_CLOEXEC);
    inside = 0;
    close(fd);
  }
  return NULL;
}

static void end_threads(void) {
  struct sigaction action = {.sa_handler = end_here, .sa_flags = SA_RESTART};
  REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
  for (int i = 0; i < kEnding; i++) {
    pthread_t thread;
    ended = 0;
    REQUIRE(pthread_create(&thread, NULL, open_for_ever, "file.000") == 0);
    while (!ended) {
      pthread_kill(thread, SIGUSR1);
      usleep(100);
    }
    pthread_join(thread, NULL);
  }
  for (int i = 0; i < 2; i++) {
    const double begin = test_now();
    const int fd = open("file.001", O_RDWR | O_CLOEXEC);
    CHECK("open", fd >= 0);
    close(fd);
    if (i == 1) CHECK_BETWEEN("milliseconds of open", 0, 1000, (test_now() - begin) * 1000);
  }
}

int main(void) {
  REQUIRE(pthread_barrier_init(&all, NULL, kThreads) == 0);
  for (uint64_t i = 0; i < kThreads; i++) {
    char name[16];
    name_of(name, i);
    heads[i].thread = i;
    const int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    static char content[kBytes];
    REQUIRE(fd >= 0 && write(fd, content, kBytes) == kBytes && write(fd, "the rest", 9) == 9);
    REQUIRE(pwrite(fd, &heads[i], sizeof heads[i], 0) == sizeof heads[i]);
    close(fd);
  }
  test_ready();
  test_wait_doing(step);
  for (uint64_t i = 0; i < kThreads; i++) check(i);
  end_threads();
  test_finish();
}
