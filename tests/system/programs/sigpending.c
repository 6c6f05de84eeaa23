/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Blocked pending signals: process-directed and thread-directed, standard and queued real-time
 * ones with values, in main and in a second thread. Afterwards each is delivered exactly once, in
 * order, with its code, sender and value, to where it was directed.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "three_phase.h"

enum { kValues = 5 };
static pthread_barrier_t built;
static volatile int go;
static sigset_t blocked;

/* Reads one of the Shd/SigPnd lines of the calling thread. */
static unsigned long long pending_line(const char *name) {
  static __thread char text[8192];
  REQUIRE(test_read_file("/proc/thread-self/status", text, sizeof text) > 0);
  const char *line = strstr(text, name);
  REQUIRE(line != NULL);
  return strtoull(line + strlen(name), NULL, 16);
}

/* Takes one pending signal by a raw call: glibc's sigtimedwait turns SI_TKILL into SI_USER. */
static void take(const char *what, int number, int code, int value) {
  static const struct timespec kNow = {0, 0};
  sigset_t set;
  siginfo_t info;
  memset(&info, 0, sizeof info);
  sigemptyset(&set);
  sigaddset(&set, number);
  char text[80];
  snprintf(text, sizeof text, "%s, signal %d", what, number);
  int taken = (int)syscall(SYS_rt_sigtimedwait, &set, &info, &kNow, 8);
  CHECK_EQ(text, number, taken);
  if (taken != number) return;
  snprintf(text, sizeof text, "%s, si_code of signal %d", what, number);
  CHECK_EQ(text, code, info.si_code);
  snprintf(text, sizeof text, "%s, si_pid of signal %d", what, number);
  CHECK_EQ(text, getpid(), info.si_pid);
  snprintf(text, sizeof text, "%s, si_uid of signal %d", what, number);
  CHECK_EQ(text, getuid(), info.si_uid);
  snprintf(text, sizeof text, "%s, value of signal %d", what, number);
  if (code == SI_QUEUE) CHECK_EQ(text, value, info.si_value.sival_int);
}

static void check_none_left(const char *what) {
  sigset_t pending;
  sigpending(&pending);
  char text[80];
  for (int s = 1; s <= 64; s++) {
    snprintf(text, sizeof text, "%s, signal %d still pending", what, s);
    CHECK_EQ(text, 0, sigismember(&pending, s));
  }
}

/* Signals directed at the calling thread alone. */
static void send_to_self(int base) {
  pthread_kill(pthread_self(), SIGUSR2);
  union sigval value;
  for (int i = 0; i < kValues; i++) {
    value.sival_int = base + i;
    REQUIRE(pthread_sigqueue(pthread_self(), SIGRTMIN + 1, value) == 0);
  }
}
static void take_own(const char *what, int base) {
  take(what, SIGUSR2, SI_TKILL, 0);
  for (int i = 0; i < kValues; i++) take(what, SIGRTMIN + 1, SI_QUEUE, base + i);
}

static void *worker(void *argument) {
  (void)argument;
  send_to_self(2000);
  unsigned long long before = pending_line("SigPnd:");
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
  CHECK_EQ("signals pending for the worker", before, pending_line("SigPnd:"));
  take_own("worker", 2000);
  return NULL;
}

static void send_to_process(void) {
  union sigval value;
  REQUIRE(kill(getpid(), SIGUSR1) == 0);
  REQUIRE(kill(getpid(), SIGTERM) == 0);
  for (int i = 0; i < kValues; i++) {
    value.sival_int = 3000 + i;
    REQUIRE(sigqueue(getpid(), SIGRTMIN + 2, value) == 0);
  }
}

int main(void) {
  sigemptyset(&blocked);
  int numbers[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGRTMIN + 1, SIGRTMIN + 2};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) sigaddset(&blocked, numbers[i]);
  REQUIRE(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0);
  pthread_barrier_init(&built, NULL, 2);
  pthread_t thread;
  pthread_create(&thread, NULL, worker, NULL);
  send_to_process();
  send_to_self(1000);
  unsigned long long own = pending_line("SigPnd:"), shared = pending_line("ShdPnd:");
  pthread_barrier_wait(&built);
  test_ready();
  test_wait();
  CHECK_EQ("signals pending for main", own, pending_line("SigPnd:"));
  CHECK_EQ("signals pending for the process", shared, pending_line("ShdPnd:"));
  go = 1;
  pthread_join(thread, NULL);
  take("process", SIGUSR1, SI_USER, 0);
  take("process", SIGTERM, SI_USER, 0);
  for (int i = 0; i < kValues; i++) take("process", SIGRTMIN + 2, SI_QUEUE, 3000 + i);
  take_own("main", 1000);
  check_none_left("after taking all");
  test_finish();
}
