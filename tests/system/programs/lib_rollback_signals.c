/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and signals: what was pending for the process and for two threads, with its values and
 * in its order, masks, dispositions, alternate stacks and timers are as they were; what the program
 * has sent itself since is gone, what another process has sent since is not.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "rollback.h"

enum { kRounds = 12 };
static volatile int ticks, foreign, usr1;
static volatile int thread_go, thread_done;
static char stack_main[32768], stack_other[32768], stack_third[65536];

static void on_alarm(int s) {
  (void)s;
  ticks++;
}
static void on_foreign(int s, siginfo_t *i, void *c) {
  (void)s, (void)c;
  foreign += i->si_pid != getpid();
}
static void on_usr1(int s) {
  (void)s;
  usr1++;
}
static void queue(pthread_t t, int sig, int value) {
  union sigval v;
  v.sival_int = value;
  REQUIRE(pthread_sigqueue(t, sig, v) == 0);
}
static void take(const char *what, int sig, int value) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, sig);
  siginfo_t info;
  const struct timespec none = {0, 0};
  CHECK_EQ(what, sig, sigtimedwait(&set, &info, &none));
  CHECK_EQ("its value", value, info.si_value.sival_int);
  CHECK_EQ("its code", SI_QUEUE, info.si_code);
}
static int any_pending(int sig) {
  sigset_t set;
  sigpending(&set);
  return sigismember(&set, sig);
}
static void alternate(char *where, size_t bytes) {
  const stack_t ss = {where, 0, bytes};
  REQUIRE(sigaltstack(&ss, NULL) == 0);
}
static void check_alternate(const char *what, const char *where, size_t bytes) {
  stack_t ss;
  REQUIRE(sigaltstack(NULL, &ss) == 0);
  CHECK_EQ(what, (uintptr_t)where, (uintptr_t)ss.ss_sp);
  CHECK_EQ(what, bytes, ss.ss_size);
}

static void *other(void *arg) {
  sigset_t set;
  (void)arg;
  sigemptyset(&set);
  for (int i = 1; i < 7; i++) sigaddset(&set, SIGRTMIN + i);
  sigaddset(&set, SIGUSR2);
  REQUIRE(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
  alternate(stack_other, sizeof stack_other);
  queue(pthread_self(), SIGRTMIN + 3, 31);
  queue(pthread_self(), SIGRTMIN + 3, 32);
  thread_done = 1;
  while (!thread_go) usleep(1000);
  if (thread_go == 1) { /* other things, to be undone */
    take("the thread's first", SIGRTMIN + 3, 31);
    alternate(stack_third, sizeof stack_third);
    sigaddset(&set, SIGUSR1);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
    queue(pthread_self(), SIGRTMIN + 3, 33);
    queue(pthread_self(), SIGUSR1, 34);
    thread_done = 2;
    for (;;) usleep(1000);
  }
  check_alternate("alternate stack of the thread", stack_other, sizeof stack_other);
  sigset_t now;
  REQUIRE(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
  CHECK_EQ("SIGUSR1 blocked in the thread", 0, sigismember(&now, SIGUSR1));
  CHECK_EQ("SIGUSR2 blocked in the thread", 1, sigismember(&now, SIGUSR2));
  take("the thread's first", SIGRTMIN + 3, 31);
  take("the thread's second", SIGRTMIN + 3, 32);
  CHECK_EQ("a third", 0, any_pending(SIGRTMIN + 3));
  thread_done = 3;
  return NULL;
}

int main(void) {
  struct sigaction sa;
  sigset_t set;
  pthread_t t;
  rollback_begin();
  memset(&sa, 0, sizeof sa);
  sa.sa_handler = on_alarm;
  REQUIRE(sigaction(SIGALRM, &sa, NULL) == 0);
  sa.sa_handler = on_usr1;
  REQUIRE(sigaction(SIGUSR1, &sa, NULL) == 0);
  sa.sa_sigaction = on_foreign;
  sa.sa_flags = SA_SIGINFO | SA_RESTART;
  REQUIRE(sigaction(SIGRTMIN + 6, &sa, NULL) == 0);
  sigemptyset(&set);
  for (int i = 1; i < 7; i++) sigaddset(&set, SIGRTMIN + i);
  sigaddset(&set, SIGUSR2);
  REQUIRE(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
  alternate(stack_main, sizeof stack_main);
  REQUIRE(pthread_create(&t, NULL, other, NULL) == 0);
  while (thread_done == 0) usleep(1000);
  union sigval v;
  for (int i = 1; i <= 3; i++) {
    v.sival_int = 10 + i;
    REQUIRE(sigqueue(getpid(), SIGRTMIN + 1, v) == 0);
  }
  queue(pthread_self(), SIGRTMIN + 2, 21);
  const struct itimerval timer = {{0, 0}, {3600, 0}};
  REQUIRE(setitimer(ITIMER_REAL, &timer, NULL) == 0);

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
  }
  check_alternate("alternate stack of main", stack_main, sizeof stack_main);
  struct itimerval left;
  getitimer(ITIMER_REAL, &left);
  CHECK_BETWEEN("seconds of the timer", 3500, 3600, left.it_value.tv_sec);
  getitimer(ITIMER_VIRTUAL, &left);
  CHECK_EQ("seconds of another timer", 0, left.it_value.tv_sec);
  CHECK_EQ("ticks", 0, ticks);
  CHECK_EQ("SIGUSR1 handled", 0, usr1);
  REQUIRE(sigaction(SIGUSR1, NULL, &sa) == 0);
  CHECK("handler of SIGUSR1", sa.sa_handler == on_usr1);
  REQUIRE(sigaction(SIGUSR2, NULL, &sa) == 0);
  CHECK("SIGUSR2 by default", sa.sa_handler == SIG_DFL);
  CHECK_EQ("own SIGUSR2", 0, any_pending(SIGUSR2));
  if (test_failures != 0) test_finish();
  if (round < kRounds) {
    /* All of it otherwise. */
    take("first of the process", SIGRTMIN + 1, 11);
    v.sival_int = 99;
    REQUIRE(sigqueue(getpid(), SIGRTMIN + 1, v) == 0);
    REQUIRE(sigqueue(getpid(), SIGUSR2, v) == 0);
    queue(pthread_self(), SIGRTMIN + 2, 22);
    queue(pthread_self(), SIGRTMIN + 4, 41);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGUSR2, on_usr1);
    alternate(stack_third, sizeof stack_third);
    sigdelset(&set, SIGRTMIN + 5);
    sigaddset(&set, SIGALRM);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
    const struct itimerval soon = {{0, 1000}, {0, 1000}}, later = {{5000, 0}, {5000, 0}};
    REQUIRE(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    REQUIRE(setitimer(ITIMER_VIRTUAL, &later, NULL) == 0);
    thread_go = 1;
    while (thread_done != 2) usleep(1000);
    if (round == kRounds - 1) { /* from outside, and so not undone */
      const pid_t me = getpid(), child = fork();
      if (child == 0) _exit(kill(me, SIGRTMIN + 6) != 0);
      int status = 1;
      REQUIRE(waitpid(child, &status, 0) == child);
      REQUIRE(status == 0);
    }
    usleep(5000);
    rollback_now();
  }
  for (int i = 1; i <= 3; i++) take("of the process", SIGRTMIN + 1, 10 + i);
  CHECK_EQ("a fourth of the process", 0, any_pending(SIGRTMIN + 1));
  take("of the main thread", SIGRTMIN + 2, 21);
  CHECK_EQ("a second of the main thread", 0, any_pending(SIGRTMIN + 2));
  CHECK_EQ("one that was sent since", 0, any_pending(SIGRTMIN + 4));
  CHECK_EQ("one from another process", 1, any_pending(SIGRTMIN + 6));
  sigset_t now;
  REQUIRE(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
  CHECK_EQ("SIGALRM blocked", 0, sigismember(&now, SIGALRM));
  CHECK_EQ("SIGRTMIN+5 blocked", 1, sigismember(&now, SIGRTMIN + 5));
  thread_go = 2;
  pthread_join(t, NULL);
  CHECK_EQ("the thread has looked", 3, thread_done);
  sigdelset(&set, SIGRTMIN + 6);
  REQUIRE(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
  CHECK_EQ("handled from another process", 1, foreign);
  test_finish();
}
