/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and timers of timer_create: those that were set, deleted or made since are what they
 * were, with their ids, and so are their pending signals; in place (Linux 6.15).
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "rollback.h"

enum { kRounds = 8, kLong = 900, kRestoreIds = 77, kGet = 2 };

static int once, every, pending;

static int make(int number, int value) {
  struct sigevent event;
  memset(&event, 0, sizeof event);
  event.sigev_signo = number;
  event.sigev_value.sival_int = value;
  int id = -1;
  REQUIRE(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) == 0);
  return id;
}

static void set(int id, long seconds, long ns, long every_seconds) {
  struct itimerspec t = {{every_seconds, 0}, {seconds, ns}};
  REQUIRE(syscall(SYS_timer_settime, id, 0, &t, NULL) == 0);
}

static long left(int id, long *ret_interval) {
  struct itimerspec t = {{-1, 0}, {-1, 0}};
  CHECK_EQ("timer_gettime", 0, syscall(SYS_timer_gettime, id, &t));
  *ret_interval = t.it_interval.tv_sec;
  return t.it_value.tv_sec;
}

static int timers(void) {
  static char text[16384];
  CHECK("/proc/self/timers", test_read_file("/proc/self/timers", text, sizeof text) >= 0);
  int count = 0;
  for (const char *at = text; (at = strstr(at, "notify:")) != NULL; at++) count++;
  return count;
}

static void build(void) {
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int i = 1; i <= 3; i++) sigaddset(&blocked, SIGRTMIN + i);
  REQUIRE(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
  once = make(SIGRTMIN + 1, 1);
  REQUIRE(syscall(SYS_timer_delete, make(SIGRTMIN + 1, 9)) == 0);
  every = make(SIGRTMIN + 2, 2);
  pending = make(SIGRTMIN + 3, 3);
  REQUIRE(once == 0 && every == 2 && pending == 3);
  set(once, kLong, 0, 0);
  set(every, kLong, 0, 11);
  set(pending, 0, 1000, 0);
  usleep(3000);
}

static void check(void) {
  long interval;
  siginfo_t info;
  CHECK_EQ("timers", 3, timers());
  CHECK_BETWEEN("time left, once", kLong - 30, kLong, left(once, &interval));
  CHECK_EQ("interval, once", 0, interval);
  CHECK_BETWEEN("time left, periodic", kLong - 30, kLong, left(every, &interval));
  CHECK_EQ("interval, periodic", 11, interval);
  CHECK_EQ("the pending signal", SIGRTMIN + 3, test_take_signal(SIGRTMIN + 3, &info));
  CHECK_EQ("its value", 3, info.si_value.sival_int);
  CHECK_EQ("its code", SI_TIMER, info.si_code);
  for (int i = 1; i <= 3; i++)
    CHECK_EQ("no other signal", -1, test_take_signal(SIGRTMIN + i, &info));
  set(pending, 0, 1000, 0);
  usleep(3000);
  CHECK_EQ("it can be set again", SIGRTMIN + 3, test_take_signal(SIGRTMIN + 3, &info));
}

static void disturb(uint64_t round) {
  set(once, 0, 1000, 0);
  if (round % 2 == 0) REQUIRE(syscall(SYS_timer_delete, every) == 0);
  if (round % 3 == 0) REQUIRE(syscall(SYS_timer_delete, pending) == 0);
  for (int i = 0; i < 4; i++) set(make(SIGRTMIN + 2, 70 + i), 0, 1000000, 0);
  usleep(4000);
}

int main(void) {
  if (prctl(kRestoreIds, kGet, 0, 0, 0) < 0) test_skip("timers cannot choose their ids here");
  rollback_begin();
  build();
  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
  }
  if (round % 4 == 1) rollback_now(); /* nothing has changed, and the signal is pending */
  check();
  if (round == kRounds || test_failures != 0) test_finish();
  disturb(round);
  rollback_now();
}
