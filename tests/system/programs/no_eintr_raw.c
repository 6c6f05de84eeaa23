/* SPDX-License-Identifier: MIT */
/* crtest: mode=live users=root,nobody,54321
 *
 * Timed system calls that the program makes itself, past libc and its wrappers, are not disturbed
 * by checkpoints either. (Calls on sockets and epoll descriptors are in no_eintr_fds_raw.)
 */
#define _GNU_SOURCE
#include "no_eintr.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "raw_syscall.h"

static int empty_pipe[2], sysv_semaphore = -1, futex_word;
static volatile sig_atomic_t alarms;

static long run_nanosleep(void) {
  struct timespec t = call_time();
  return raw_syscall(SYS_nanosleep, &t, NULL);
}
static long run_clock_nanosleep(void) {
  struct timespec t = call_time();
  return raw_syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL);
}
static long run_clock_nanosleep_absolute(void) {
  struct timespec t = call_deadline(CLOCK_MONOTONIC);
  return raw_syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static long run_poll(void) {
  struct pollfd p = {.fd = empty_pipe[0], .events = POLLIN};
  return raw_syscall(SYS_poll, &p, 1, CALL_MS);
}
static long run_ppoll(void) {
  struct pollfd p = {.fd = empty_pipe[0], .events = POLLIN};
  struct timespec t = call_time();
  return raw_syscall(SYS_ppoll, &p, 1, &t, NULL, 8);
}
static long run_select(void) {
  struct timeval t = {0, CALL_NS / 1000};
  return raw_syscall(SYS_select, 0, NULL, NULL, NULL, &t);
}
static long run_pselect(void) {
  struct timespec t = call_time();
  uint64_t mask = ~0ull;
  struct {
    const uint64_t *mask;
    size_t size;
  } argument = {&mask, 8};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(empty_pipe[0], &set);
  return raw_syscall(SYS_pselect6, empty_pipe[0] + 1, &set, NULL, NULL, &t, &argument);
}
static long run_futex(void) {
  struct timespec t = call_time();
  return raw_syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, &t);
}
static long run_futex_bitset(void) {
  struct timespec t = call_deadline(CLOCK_MONOTONIC);
  return raw_syscall(SYS_futex, &futex_word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL,
                     FUTEX_BITSET_MATCH_ANY);
}
static long run_sigtimedwait(void) {
  struct timespec t = call_time();
  uint64_t set = 1ull << (SIGUSR1 - 1);
  return raw_syscall(SYS_rt_sigtimedwait, &set, NULL, &t, 8);
}
static long run_semtimedop(void) {
  struct timespec t = call_time();
  struct sembuf wait = {.sem_op = -1};
  return raw_syscall(SYS_semtimedop, sysv_semaphore, &wait, 1, &t);
}
static void on_alarm(int number) {
  (void)number;
  alarms++;
}
static long run_pause(void) {
  struct itimerval timer = {{0, CALL_NS / 1000}, {0, CALL_NS / 1000}}, off = {{0, 0}, {0, 0}};
  sigset_t set;
  alarms = 0;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
  setitimer(ITIMER_REAL, &timer, NULL);
  long result = raw_syscall(SYS_pause);
  CHECK_BETWEEN("alarms when pause returned", 1, 3, alarms);
  setitimer(ITIMER_REAL, &off, NULL);
  return result;
}

static struct timed_call calls[] = {
    {.name = "raw nanosleep", .run = run_nanosleep},
    {.name = "raw clock_nanosleep", .run = run_clock_nanosleep},
    {.name = "raw clock_nanosleep with TIMER_ABSTIME", .run = run_clock_nanosleep_absolute},
    {.name = "raw poll", .run = run_poll},
    {.name = "raw ppoll", .run = run_ppoll},
    {.name = "raw select", .run = run_select},
    {.name = "raw pselect6", .run = run_pselect},
    {.name = "raw futex", .run = run_futex, .expected = -ETIMEDOUT},
    {.name = "raw futex with a deadline", .run = run_futex_bitset, .expected = -ETIMEDOUT},
    {.name = "raw rt_sigtimedwait", .run = run_sigtimedwait, .expected = -EAGAIN},
    {.name = "raw pause until an alarm", .run = run_pause, .expected = -EINTR},
    {.name = "raw semtimedop", .run = run_semtimedop, .expected = -EAGAIN},
};

static void remove_semaphore(void) {
  if (sysv_semaphore >= 0) semctl(sysv_semaphore, 0, IPC_RMID);
}

int main(void) {
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  REQUIRE(pipe(empty_pipe) == 0);
  size_t count = sizeof calls / sizeof calls[0];
  sysv_semaphore = semget(IPC_PRIVATE, 1, 0600);
  if (sysv_semaphore < 0) count--; /* the last one: no SysV semaphores here */
  atexit(remove_semaphore);
  no_eintr_main(calls, count);
}
