/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Eventfds: counts, also more than 32 bits and the largest; semaphores; O_NONBLOCK; two numbers of
 * one; close-on-exec; a thread that waits in one.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "three_phase.h"

static const uint64_t kLargest = ~0ull - 1;
static int empty, counter, large, full, semaphore, idle_semaphore, twin, waited;

static uint64_t get(int fd) {
  uint64_t value = 0;
  CHECK_EQ("bytes read", 8, read(fd, &value, sizeof value));
  return value;
}

static void put(int fd, uint64_t value) { REQUIRE(write(fd, &value, sizeof value) == 8); }

static void *wait_for_it(void *argument) {
  (void)argument;
  CHECK_EQ("what the thread waited for", 9, get(waited));
  return NULL;
}

static void check_empty(const char *what, int fd) {
  uint64_t value;
  CHECK_EQ(what, -1, read(fd, &value, sizeof value));
  CHECK_EQ(what, EAGAIN, errno);
}

int main(void) {
  empty = eventfd(0, EFD_NONBLOCK);
  counter = eventfd(5, EFD_CLOEXEC | EFD_NONBLOCK);
  large = eventfd(0, EFD_NONBLOCK);
  full = eventfd(0, EFD_NONBLOCK);
  semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
  idle_semaphore = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK);
  waited = eventfd(0, 0);
  put(large, 1ull << 40);
  put(full, kLargest);
  REQUIRE((twin = fcntl(counter, F_DUPFD, 100)) == 100);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, wait_for_it, NULL) == 0);
  test_ready();
  test_wait();
  check_empty("the empty one", empty);
  CHECK_EQ("close-on-exec", FD_CLOEXEC, fcntl(counter, F_GETFD));
  CHECK_EQ("close-on-exec of its twin", 0, fcntl(twin, F_GETFD));
  CHECK_EQ("O_NONBLOCK", O_NONBLOCK, fcntl(twin, F_GETFL) & O_NONBLOCK);
  CHECK_EQ("no O_NONBLOCK", 0, fcntl(waited, F_GETFL) & O_NONBLOCK);
  put(twin, 2);
  CHECK_EQ("the counter by both its numbers", 7, get(counter));
  CHECK_EQ("more than 32 bits", 1ull << 40, get(large));
  struct pollfd p = {.fd = full, .events = POLLOUT};
  CHECK_EQ("room in the full one", 0, poll(&p, 1, 0));
  CHECK_EQ("the full one", kLargest, get(full));
  for (int i = 0; i < 3; i++) CHECK_EQ("a unit of the semaphore", 1, get(semaphore));
  check_empty("the semaphore then", semaphore);
  put(idle_semaphore, 2);
  CHECK_EQ("a unit of the idle semaphore", 1, get(idle_semaphore));
  CHECK_EQ("another", 1, get(idle_semaphore));
  put(waited, 9);
  pthread_join(thread, NULL);
  test_finish();
}
