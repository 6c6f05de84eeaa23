/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later
 *
 * Timerfds: one with much time left, which must not go on while the program does not exist by more
 * than the time it runs; a periodic one; expirations that were not read; one set to a time of the
 * wall clock; one that is not armed; clocks and flags.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/timerfd.h>

#include "three_phase.h"

enum { kLong = 1000 };

static int once, periodic, expired, ticking, wall, idle;
static struct timespec wall_time;

static struct itimerspec left(int fd) {
  struct itimerspec t;
  CHECK_EQ("timerfd_gettime", 0, timerfd_gettime(fd, &t));
  return t;
}

static void arm(int fd, int flags, long value_ms, long interval_ms) {
  struct itimerspec t = {{interval_ms / 1000, interval_ms % 1000 * 1000000},
                         {value_ms / 1000, value_ms % 1000 * 1000000}};
  REQUIRE(fd >= 0 && timerfd_settime(fd, flags, &t, NULL) == 0);
}

static uint64_t ticks(int fd) {
  uint64_t n = 0;
  CHECK_EQ("bytes read", 8, read(fd, &n, sizeof n));
  return n;
}

static long info_of(int fd, const char *name) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  CHECK("fdinfo", test_read_file(path, text, sizeof text) > 0);
  const char *at = strstr(text, name);
  return at == NULL ? -1 : strtol(at + strlen(name), NULL, 10);
}

int main(void) {
  once = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  periodic = timerfd_create(CLOCK_BOOTTIME, 0);
  expired = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  ticking = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  wall = timerfd_create(CLOCK_REALTIME, 0);
  idle = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  arm(once, 0, kLong * 1000, 0);
  arm(periodic, 0, kLong * 1000, 7000);
  arm(expired, 0, 1, 0);
  arm(ticking, 0, 1, 200000);
  REQUIRE(clock_gettime(CLOCK_REALTIME, &wall_time) == 0);
  wall_time.tv_sec += kLong;
  struct itimerspec at = {{0, 0}, wall_time};
  REQUIRE(timerfd_settime(wall, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at, NULL) == 0);
  usleep(20000); /* two have expired */
  test_ready();
  test_wait();
  CHECK_EQ("interval of the first", 0, left(once).it_interval.tv_sec);
  CHECK_BETWEEN("time left of the first", kLong - 60, kLong, left(once).it_value.tv_sec);
  CHECK_EQ("clock of the first", CLOCK_MONOTONIC, info_of(once, "clockid:"));
  CHECK_EQ("close-on-exec of the first", FD_CLOEXEC, fcntl(once, F_GETFD));
  CHECK_EQ("interval of the periodic one", 7, left(periodic).it_interval.tv_sec);
  CHECK_BETWEEN("its time left", kLong - 60, kLong, left(periodic).it_value.tv_sec);
  CHECK_EQ("its clock", CLOCK_BOOTTIME, info_of(periodic, "clockid:"));
  CHECK_EQ("the expired one is not armed", 0, left(expired).it_value.tv_sec);
  CHECK_EQ("expirations of the expired one", 1, ticks(expired));
  CHECK_EQ("expirations of the ticking one", 1, ticks(ticking));
  CHECK_BETWEEN("its time left", 100, 200, left(ticking).it_value.tv_sec);
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  CHECK_BETWEEN("the wall clock's one, in seconds", wall_time.tv_sec - now.tv_sec - 2,
                wall_time.tv_sec - now.tv_sec + 1, left(wall).it_value.tv_sec);
  CHECK_EQ("its flags", TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
           info_of(wall, "settime flags:"));
  uint64_t none;
  CHECK_EQ("the idle one", -1, read(idle, &none, sizeof none));
  CHECK_EQ("its errno", EAGAIN, errno);
  arm(once, 0, 5, 0);
  CHECK_EQ("it can be set again", 1, ticks(once));
  test_finish();
}
