/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Epoll instances: what each watches, with events and data, level- and edge-triggered, disarmed
 * EPOLLONESHOT entries; one that watches another; two entries of one file by two numbers; two
 * numbers of one instance; a thread that waits in one.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "three_phase.h"

enum { kMost = 16 };

static int outer, inner, inner_twin, empty;
static int event, event_twin, quiet, fired, fired_pipe[2], hung_pipe[2], pipe_ends[2], waited;

static void add(int set, int fd, uint32_t events, uint64_t data) {
  struct epoll_event e = {.events = events, .data.u64 = data};
  REQUIRE(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e) == 0);
}

/* The events of the entry with this data, 0 if it is not reported. */
static uint32_t reported(int set, uint64_t data) {
  struct epoll_event all[kMost];
  const int n = epoll_wait(set, all, kMost, 0);
  for (int i = 0; i < n; i++)
    if (all[i].data.u64 == data) return all[i].events;
  return 0;
}

static void *waiter(void *argument) {
  (void)argument;
  struct epoll_event e = {0};
  CHECK_EQ("events for the waiting thread", 1, epoll_wait(waited, &e, 1, -1));
  CHECK_EQ("their data", 777, e.data.u64);
  return NULL;
}

static void build(void) {
  outer = epoll_create1(EPOLL_CLOEXEC);
  inner = epoll_create1(0);
  empty = epoll_create1(0);
  waited = epoll_create1(0);
  event = eventfd(1, 0);
  quiet = eventfd(0, 0);
  fired = eventfd(1, 0);
  REQUIRE(pipe(pipe_ends) == 0 && pipe(fired_pipe) == 0);
  REQUIRE(pipe(hung_pipe) == 0 && write(hung_pipe[1], "x", 1) == 1);
  REQUIRE((event_twin = dup(event)) >= 0 && (inner_twin = fcntl(inner, F_DUPFD, 150)) == 150);
  add(inner, event, EPOLLIN | EPOLLET, 0x1111222233334444ull);
  add(inner, event_twin, EPOLLIN, 2);
  add(inner, quiet, EPOLLIN, 3);
  add(inner, fired, EPOLLIN | EPOLLONESHOT, 4);
  add(inner, fired_pipe[0], EPOLLIN | EPOLLONESHOT, 5);
  add(inner, hung_pipe[0], EPOLLIN | EPOLLONESHOT, 7);
  add(inner, pipe_ends[0], EPOLLIN | EPOLLEXCLUSIVE, 6);
  add(outer, inner, EPOLLIN, 100);
  add(outer, pipe_ends[1], EPOLLOUT, 101);
  add(waited, quiet, EPOLLIN, 777);
  REQUIRE(write(fired_pipe[1], "x", 1) == 1);
  REQUIRE(reported(inner, 4) == EPOLLIN); /* all ONESHOT entries are disarmed from now on */
  REQUIRE(reported(inner, 4) == 0 && reported(inner, 5) == 0);
  char c;
  REQUIRE(read(fired_pipe[0], &c, 1) == 1); /* one is not ready at the checkpoint, one is */
}

static void check_inner(int set) {
  CHECK_EQ("the level-triggered one", EPOLLIN, reported(set, 2));
  CHECK_EQ("the level-triggered one again", EPOLLIN, reported(set, 2));
  CHECK_EQ("the one without an event", 0, reported(set, 3));
  CHECK_EQ("the disarmed one", 0, reported(set, 4));
  CHECK_EQ("the disarmed one of a pipe", 0, reported(set, 5));
  CHECK_EQ("write", 1, write(fired_pipe[1], "y", 1));
  CHECK_EQ("the disarmed one of a pipe, with content", 0, reported(set, 5));
  CHECK_EQ("close", 0, close(hung_pipe[1]));
  CHECK_EQ("a disarmed one does not report a hang-up", 0, reported(set, 7));
  struct epoll_event e = {.events = EPOLLIN, .data.u64 = 44};
  CHECK_EQ("arming it again", 0, epoll_ctl(set, EPOLL_CTL_MOD, fired, &e));
  CHECK_EQ("it fires", EPOLLIN, reported(set, 44));
  CHECK_EQ("write", 1, write(pipe_ends[1], "z", 1));
  CHECK_EQ("the exclusive one", EPOLLIN, reported(set, 6));
}

int main(void) {
  build();
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, waiter, NULL) == 0);
  test_ready();
  test_wait();
  CHECK_EQ("close-on-exec", FD_CLOEXEC, fcntl(outer, F_GETFD));
  CHECK_EQ("nested", EPOLLIN, reported(outer, 100));
  CHECK_EQ("the write end", EPOLLOUT, reported(outer, 101));
  CHECK_EQ("the edge, by a twin", EPOLLIN, reported(inner_twin, 0x1111222233334444ull));
  CHECK_EQ("the edge, once", 0, reported(inner, 0x1111222233334444ull));
  const eventfd_t one = 1;
  CHECK_EQ("write", 8, write(event, &one, 8));
  CHECK_EQ("a new edge", EPOLLIN, reported(inner, 0x1111222233334444ull));
  check_inner(inner);
  struct epoll_event e;
  CHECK_EQ("the empty one", 0, epoll_wait(empty, &e, 1, 0));
  CHECK_EQ("out of the set", 0, epoll_ctl(inner, EPOLL_CTL_DEL, event_twin, NULL));
  CHECK_EQ("not reported any more", 0, reported(inner, 2));
  CHECK_EQ("its twin has stayed", 0, epoll_ctl(inner, EPOLL_CTL_DEL, event, NULL));
  CHECK_EQ("write", 8, write(quiet, &one, 8));
  pthread_join(thread, NULL);
  test_finish();
}
