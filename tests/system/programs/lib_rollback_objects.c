/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and descriptors that are made anew: counts, timers, signal masks, epoll sets and
 * watches that were changed, closed, exchanged or used up since are what they were, and in place.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "rollback.h"

enum { kRounds = 8, kSeconds = 500 };

static int event, twin, semaphore, signals, timer, expired, set, inner, watches, watch, myself;
static sigset_t mask;

static void arm(int fd, long seconds, long ns) {
  struct itimerspec t = {{0, 0}, {seconds, ns}};
  REQUIRE(timerfd_settime(fd, 0, &t, NULL) == 0);
}

static void add(int where, int fd, uint32_t events, uint64_t data) {
  struct epoll_event e = {.events = events, .data.u64 = data};
  REQUIRE(epoll_ctl(where, EPOLL_CTL_ADD, fd, &e) == 0);
}

static uint64_t get(int fd) {
  uint64_t n = 0;
  return read(fd, &n, sizeof n) == sizeof n ? n : 0;
}

static int reported(int where, uint64_t data) {
  struct epoll_event all[8];
  const int n = epoll_wait(where, all, 8, 0);
  for (int i = 0; i < n; i++)
    if (all[i].data.u64 == data) return 1;
  return 0;
}

static void build(void) {
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR1);
  REQUIRE(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
  event = eventfd(4, EFD_NONBLOCK);
  REQUIRE((twin = fcntl(event, F_DUPFD_CLOEXEC, 90)) == 90);
  semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
  signals = signalfd(-1, &mask, SFD_NONBLOCK);
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  expired = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  set = epoll_create1(0);
  inner = epoll_create1(EPOLL_CLOEXEC);
  watches = inotify_init1(IN_NONBLOCK);
  myself = (int)syscall(SYS_pidfd_open, getpid(), 0);
  REQUIRE(semaphore >= 0 && signals >= 0 && set >= 0 && inner >= 0 && myself >= 0);
  close(open("watched", O_CREAT | O_WRONLY, 0600));
  REQUIRE(inotify_rm_watch(watches, inotify_add_watch(watches, ".", IN_CREATE)) == 0);
  watch = inotify_add_watch(watches, "watched", IN_OPEN);
  char drop[256];
  REQUIRE(watch == 2 && read(watches, drop, sizeof drop) > 0);
  arm(timer, kSeconds, 0);
  arm(expired, 0, 1000);
  add(set, event, EPOLLIN | EPOLLET, 1);
  add(set, inner, EPOLLIN, 2);
  add(inner, semaphore, EPOLLIN, 3);
  add(set, expired, EPOLLIN | EPOLLONESHOT, 4);
  usleep(3000);
}

static void check(void) {
  struct itimerspec left;
  CHECK_EQ("timerfd_gettime", 0, timerfd_gettime(timer, &left));
  CHECK_BETWEEN("time left", kSeconds - 30, kSeconds, left.it_value.tv_sec);
  CHECK_EQ("an edge", 1, reported(set, 1));
  CHECK_EQ("nested", 1, reported(set, 2));
  CHECK_EQ("inside", 1, reported(inner, 3));
  CHECK_EQ("the count, by the twin", 4, get(twin));
  CHECK_EQ("a unit", 1, get(semaphore));
  CHECK_EQ("a unit", 1, get(semaphore));
  CHECK_EQ("no unit", 0, get(semaphore));
  CHECK_EQ("expirations", 1, get(expired));
  char event_bytes[256];
  CHECK_EQ("no event", -1, read(watches, event_bytes, sizeof event_bytes));
  close(open("watched", O_RDONLY));
  CHECK_EQ("an event", (long)sizeof(struct inotify_event),
           read(watches, event_bytes, sizeof event_bytes));
  CHECK_EQ("of the watch", watch, ((struct inotify_event *)event_bytes)->wd);
  struct signalfd_siginfo info;
  CHECK_EQ("no signal", -1, read(signals, &info, sizeof info));
  CHECK_EQ("send", 0, syscall(SYS_pidfd_send_signal, myself, SIGUSR1, NULL, 0));
  CHECK_EQ("a signal", (long)sizeof info, read(signals, &info, sizeof info));
  CHECK_EQ("close-on-exec of the twin", FD_CLOEXEC, fcntl(twin, F_GETFD));
}

/* Everything is used up already; what is left is closed, exchanged and reset. */
static void disturb(uint64_t round) {
  arm(timer, 3, 0);
  sigaddset(&mask, SIGUSR2);
  REQUIRE(signalfd(signals, &mask, 0) == signals);
  struct epoll_event e = {.events = EPOLLOUT, .data.u64 = 99};
  REQUIRE(epoll_ctl(inner, EPOLL_CTL_MOD, semaphore, &e) == 0);
  REQUIRE(epoll_ctl(set, EPOLL_CTL_DEL, inner, NULL) == 0);
  REQUIRE(inotify_rm_watch(watches, watch) == 0);
  if (round % 2 == 0) {
    close(event);
    close(set);
    REQUIRE(dup2(semaphore, twin) == twin && fcntl(semaphore, F_SETFL, 0) == 0);
    close(watches);
    close(myself);
    eventfd(77, 0);
    eventfd(78, 0);
  }
}

int main(void) {
  rollback_begin();
  build();
  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
  }
  check();
  if (round == kRounds || test_failures != 0) test_finish();
  disturb(round);
  rollback_now();
}
