/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later
 *
 * Timers of timer_create: of all ways to notify, with ids that have gaps; time left, interval,
 * overruns; one whose signal is pending; one that is not set; one of the process's processor time.
 * A function that a timer calls (SIGEV_THREAD) is called on.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "three_phase.h"

enum { kLong = 700, kOverruns = 3 };

typedef int kernel_timer; /* the kernel's ids, which the C library hides */

static kernel_timer once, every, none, pending, idle, cpu, to_thread, overrun;
static timer_t calls;
static int called, thread_signals;
static pid_t thread_id;
static int thread_goes = 1;

static void on_call(union sigval value) {
  if (value.sival_int == 4711) __atomic_add_fetch(&called, 1, __ATOMIC_SEQ_CST);
}

static void on_thread_signal(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  if (syscall(SYS_gettid) == thread_id && info->si_value.sival_int == 33)
    __atomic_add_fetch(&thread_signals, 1, __ATOMIC_SEQ_CST);
}

static void *thread_main(void *argument) {
  (void)argument;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN + 5);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  while (__atomic_load_n(&thread_goes, __ATOMIC_SEQ_CST)) { /* it may have a new id */
    __atomic_store_n(&thread_id, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    usleep(1000);
  }
  return NULL;
}

static kernel_timer make(clockid_t clock, int notify, int number, int value, pid_t tid) {
  struct sigevent event;
  memset(&event, 0, sizeof event);
  event.sigev_notify = notify;
  event.sigev_signo = number;
  event.sigev_value.sival_int = value;
  event._sigev_un._tid = tid;
  kernel_timer id = -1;
  REQUIRE(syscall(SYS_timer_create, clock, &event, &id) == 0);
  return id;
}

static void set(kernel_timer id, long seconds, long ns, long every_seconds, long every_ns) {
  struct itimerspec t = {{every_seconds, every_ns}, {seconds, ns}};
  REQUIRE(syscall(SYS_timer_settime, id, 0, &t, NULL) == 0);
}

static struct itimerspec left(const char *what, kernel_timer id) {
  struct itimerspec t = {{0, 0}, {0, 0}};
  CHECK_EQ(what, 0, syscall(SYS_timer_gettime, id, &t));
  return t;
}

/* A period of many seconds, so that nothing is added meanwhile; it has expired several times. */
static void overrun_some(kernel_timer id) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const long period = now.tv_sec / (kOverruns + 3);
  struct itimerspec t = {{period, 0}, {now.tv_sec - kOverruns * period - period / 2, 0}};
  REQUIRE(period > 60 && syscall(SYS_timer_settime, id, TIMER_ABSTIME, &t, NULL) == 0);
  siginfo_t info;
  while (test_take_signal(SIGRTMIN + 6, &info) != SIGRTMIN + 6) usleep(100);
  REQUIRE(syscall(SYS_timer_getoverrun, id) == kOverruns);
}

static long period;

static void build(void) {
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int i = 3; i <= 6; i++) sigaddset(&blocked, SIGRTMIN + i);
  REQUIRE(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
  struct sigaction action = {.sa_sigaction = on_thread_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
  REQUIRE(sigaction(SIGRTMIN + 5, &action, NULL) == 0);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, thread_main, NULL) == 0);
  while (__atomic_load_n(&thread_id, __ATOMIC_SEQ_CST) == 0) usleep(1000);
  once = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 1, 0);
  for (int i = 0; i < 5; i++)
    REQUIRE(syscall(SYS_timer_delete, make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0)) == 0);
  every = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 3, 2, 0);
  none = make(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, 0);
  pending = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 4, 44, 0);
  idle = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 5, 0);
  cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 3, 6, 0);
  to_thread = make(CLOCK_MONOTONIC, SIGEV_SIGNAL | SIGEV_THREAD_ID, SIGRTMIN + 5, 33, thread_id);
  overrun = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 6, 7, 0);
  set(once, kLong, 0, 0, 0);
  set(every, kLong, 0, 9, 5);
  set(none, kLong, 0, 0, 0);
  set(pending, 0, 1000, 0, 0);
  set(cpu, kLong, 0, 0, 0);
  set(to_thread, 0, 2000000, 0, 2000000);
  struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_call};
  event.sigev_value.sival_int = 4711;
  REQUIRE(timer_create(CLOCK_MONOTONIC, &event, &calls) == 0);
  struct itimerspec often = {{0, 3000000}, {0, 3000000}};
  REQUIRE(timer_settime(calls, 0, &often, NULL) == 0);
  usleep(10000);
}

static void more_than(const char *what, const int *count) {
  const int before = __atomic_load_n(count, __ATOMIC_SEQ_CST);
  const double give_up = test_now() + 10;
  while (__atomic_load_n(count, __ATOMIC_SEQ_CST) < before + 5 && test_now() < give_up) usleep(500);
  CHECK_BETWEEN(what, before + 5, 1 << 30, __atomic_load_n(count, __ATOMIC_SEQ_CST));
}

int main(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const int can_overrun = now.tv_sec > 60 * (kOverruns + 4);
  build();
  if (can_overrun) overrun_some(overrun);
  if (can_overrun) period = left("its period", overrun).it_interval.tv_sec;
  test_ready();
  test_wait();
  __atomic_store_n(&thread_id, 0, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&thread_id, __ATOMIC_SEQ_CST) == 0) usleep(1000);
  CHECK_BETWEEN("time left, once", kLong - 60, kLong, left("once", once).it_value.tv_sec);
  CHECK_EQ("interval, once", 0, left("once", once).it_interval.tv_sec);
  CHECK_BETWEEN("time left, periodic", kLong - 60, kLong, left("every", every).it_value.tv_sec);
  CHECK_EQ("interval, periodic", 9, left("every", every).it_interval.tv_sec);
  CHECK_EQ("interval, periodic, ns", 5, left("every", every).it_interval.tv_nsec);
  CHECK_BETWEEN("time left, silent", kLong - 60, kLong, left("none", none).it_value.tv_sec);
  CHECK_EQ("not set", 0, left("idle", idle).it_value.tv_sec + left("idle", idle).it_value.tv_nsec);
  CHECK_BETWEEN("processor time left", kLong - 60, kLong, left("cpu", cpu).it_value.tv_sec);
  CHECK_EQ("expired", 0, left("pending", pending).it_value.tv_nsec);
  siginfo_t info;
  CHECK_EQ("its signal", SIGRTMIN + 4, test_take_signal(SIGRTMIN + 4, &info));
  CHECK_EQ("the signal's code", SI_TIMER, info.si_code);
  CHECK_EQ("the signal's value", 44, info.si_value.sival_int);
  CHECK_EQ("the signal's timer", pending, info.si_timerid);
  CHECK_EQ("there is one only", -1, test_take_signal(SIGRTMIN + 4, &info));
  CHECK_EQ("none of the others", -1, test_take_signal(SIGRTMIN + 3, &info));
  if (can_overrun) {
    CHECK_EQ("overruns", kOverruns, syscall(SYS_timer_getoverrun, overrun));
    CHECK_BETWEEN("time left of that one", 1, period, left("overrun", overrun).it_value.tv_sec);
    CHECK_EQ("its interval", period, left("overrun", overrun).it_interval.tv_sec);
    CHECK_EQ("and no signal", -1, test_take_signal(SIGRTMIN + 6, &info));
  }
  more_than("signals to the thread", &thread_signals);
  more_than("calls of the function", &called);
  set(idle, 0, 1000, 0, 0);
  usleep(10000);
  CHECK_EQ("it can be set", SIGRTMIN + 3, test_take_signal(SIGRTMIN + 3, &info));
  CHECK_EQ("its value", 5, info.si_value.sival_int);
  CHECK_EQ("and deleted", 0, timer_delete(calls));
  test_finish();
}
