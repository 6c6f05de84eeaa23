/* SPDX-License-Identifier: MIT */
/* crtest: mode=live users=root,nobody,54321
 *
 * Timed calls of libc are not disturbed by checkpoints. (Calls on sockets and epoll descriptors
 * are in no_eintr_fds_libc.)
 */
#define _GNU_SOURCE
#include "no_eintr.h"

#include <poll.h>
#include <semaphore.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/time.h>

static int empty_pipe[2], sysv_semaphore = -1;
static pthread_mutex_t cond_mutex = PTHREAD_MUTEX_INITIALIZER,
                       held_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t held_rwlock = PTHREAD_RWLOCK_INITIALIZER;
static sem_t semaphore;
static volatile sig_atomic_t alarms;

static long run_nanosleep(void) {
  struct timespec t = call_time();
  return nanosleep(&t, NULL);
}
static long run_usleep(void) { return usleep(CALL_NS / 1000); }
static long run_clock_nanosleep(void) {
  struct timespec t = call_time();
  return clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}
static long run_clock_nanosleep_absolute(void) {
  struct timespec t = call_deadline(CLOCK_REALTIME);
  return clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
}
static long run_poll(void) {
  struct pollfd p = {.fd = empty_pipe[0], .events = POLLIN};
  return poll(&p, 1, CALL_MS);
}
static long run_ppoll(void) {
  struct pollfd p = {.fd = empty_pipe[0], .events = POLLIN};
  struct timespec t = call_time();
  return ppoll(&p, 1, &t, NULL);
}
static long run_select(void) {
  struct timeval t = {0, CALL_NS / 1000};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(empty_pipe[0], &set);
  return select(empty_pipe[0] + 1, &set, NULL, NULL, &t);
}
static long run_pselect(void) {
  struct timespec t = call_time();
  sigset_t all;
  sigfillset(&all);
  return pselect(0, NULL, NULL, NULL, &t, &all);
}
static long run_cond_timedwait(void) {
  pthread_mutex_lock(&cond_mutex);
  struct timespec t = call_deadline(CLOCK_REALTIME);
  int result = pthread_cond_timedwait(&cond, &cond_mutex, &t);
  pthread_mutex_unlock(&cond_mutex);
  return result;
}
static long run_mutex_timedlock(void) {
  struct timespec t = call_deadline(CLOCK_REALTIME);
  return pthread_mutex_timedlock(&held_mutex, &t);
}
static long run_rwlock_timedwrlock(void) {
  struct timespec t = call_deadline(CLOCK_REALTIME);
  return pthread_rwlock_timedwrlock(&held_rwlock, &t);
}
static long run_sem_timedwait(void) {
  struct timespec t = call_deadline(CLOCK_REALTIME);
  return sem_timedwait(&semaphore, &t);
}
static long run_sigtimedwait(void) {
  struct timespec t = call_time();
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  return sigtimedwait(&set, NULL, &t);
}
/* Waits for all signals, which would also swallow one of the checkpointer's. */
static long run_sigtimedwait_all(void) {
  struct timespec t = call_time();
  sigset_t set;
  sigfillset(&set);
  sigdelset(&set, SIGALRM);
  return sigtimedwait(&set, NULL, &t);
}
static long run_semtimedop(void) {
  struct timespec t = call_time();
  struct sembuf wait = {.sem_op = -1};
  return semtimedop(sysv_semaphore, &wait, 1, &t);
}
/* pause() does end with EINTR: when its alarm comes, and not before. */
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
  long result = pause();
  int error = errno;
  CHECK_BETWEEN("alarms when pause returned", 1, 3, alarms);
  setitimer(ITIMER_REAL, &off, NULL);
  errno = error;
  return result;
}

static struct timed_call calls[] = {
    {.name = "nanosleep", .run = run_nanosleep},
    {.name = "usleep", .run = run_usleep},
    {.name = "clock_nanosleep", .run = run_clock_nanosleep},
    {.name = "clock_nanosleep with TIMER_ABSTIME", .run = run_clock_nanosleep_absolute},
    {.name = "poll", .run = run_poll},
    {.name = "ppoll", .run = run_ppoll},
    {.name = "select", .run = run_select},
    {.name = "pselect", .run = run_pselect},
    {.name = "pthread_cond_timedwait", .run = run_cond_timedwait, .expected = ETIMEDOUT},
    {.name = "pthread_mutex_timedlock", .run = run_mutex_timedlock, .expected = ETIMEDOUT},
    {.name = "pthread_rwlock_timedwrlock", .run = run_rwlock_timedwrlock, .expected = ETIMEDOUT},
    {.name = "sem_timedwait",
     .run = run_sem_timedwait,
     .expected = -1,
     .expected_errno = ETIMEDOUT},
    {.name = "sigtimedwait", .run = run_sigtimedwait, .expected = -1, .expected_errno = EAGAIN},
    {.name = "sigtimedwait for all",
     .run = run_sigtimedwait_all,
     .expected = -1,
     .expected_errno = EAGAIN},
    {.name = "pause until an alarm", .run = run_pause, .expected = -1, .expected_errno = EINTR},
    {.name = "semtimedop", .run = run_semtimedop, .expected = -1, .expected_errno = EAGAIN},
};

static void remove_semaphore(void) {
  if (sysv_semaphore >= 0) semctl(sysv_semaphore, 0, IPC_RMID);
}

int main(void) {
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  REQUIRE(pipe(empty_pipe) == 0);
  sem_init(&semaphore, 0, 0);
  pthread_mutex_lock(&held_mutex);
  pthread_rwlock_rdlock(&held_rwlock);
  size_t count = sizeof calls / sizeof calls[0];
  sysv_semaphore = semget(IPC_PRIVATE, 1, 0600);
  if (sysv_semaphore < 0) count--; /* the last one: no SysV semaphores here */
  atexit(remove_semaphore);
  no_eintr_main(calls, count);
}
