/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live,often users=root,nobody,54321
 *
 * Sixteen threads, each blocked in a different call and each with its own TLS values, name, signal
 * mask and alternate stack. Afterwards every call must end properly once its reason to wait is
 * gone (never with an EINTR that no signal of ours explains), and every thread must be itself.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>

#include "three_phase.h"

static int read_pipe[2], poll_pipe[2], ppoll_pipe[2], select_pipe[2], full_pipe[2];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t cond_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t sem, timed_sem;
static volatile int cond_flag, sleep_flag, spin_flag, futex_word, pause_signals;
static pthread_t helper_thread;

struct worker {
  const char *name;                 /* also the thread's name: at most 15 characters */
  void (*block)(void);              /* in the worker: waits, then checks how the wait ended */
  void (*release)(struct worker *); /* in main: removes the reason to wait */
  pthread_t thread;
  pid_t tid;
};

static void block_read(void) {
  char byte = 0;
  CHECK_EQ("read from a pipe", 1, read(read_pipe[0], &byte, 1));
  CHECK_EQ("byte read", 'r', byte);
}
static void release_read(struct worker *w) {
  (void)w;
  REQUIRE(write(read_pipe[1], "r", 1) == 1);
}
static void block_poll(void) {
  struct pollfd p = {.fd = poll_pipe[0], .events = POLLIN};
  CHECK_EQ("poll", 1, poll(&p, 1, -1));
}
static void release_poll(struct worker *w) {
  (void)w;
  REQUIRE(write(poll_pipe[1], "p", 1) == 1);
}
static void block_ppoll(void) {
  struct pollfd p = {.fd = ppoll_pipe[0], .events = POLLIN};
  sigset_t all;
  sigfillset(&all);
  CHECK_EQ("ppoll", 1, ppoll(&p, 1, NULL, &all));
}
static void release_ppoll(struct worker *w) {
  (void)w;
  REQUIRE(write(ppoll_pipe[1], "p", 1) == 1);
}
static void block_select(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(select_pipe[0], &set);
  CHECK_EQ("select", 1, select(select_pipe[0] + 1, &set, NULL, NULL, NULL));
}
static void release_select(struct worker *w) {
  (void)w;
  REQUIRE(write(select_pipe[1], "s", 1) == 1);
}
static void block_write(void) {
  CHECK_EQ("write to a full pipe", 4, write(full_pipe[1], "last", 4));
}
static void release_write(struct worker *w) {
  static char drained[65536];
  (void)w;
  CHECK_EQ("drained from the full pipe", sizeof drained,
           read(full_pipe[0], drained, sizeof drained));
}
static void block_cond(void) {
  pthread_mutex_lock(&cond_mutex);
  while (!cond_flag) CHECK_EQ("pthread_cond_wait", 0, pthread_cond_wait(&cond, &cond_mutex));
  pthread_mutex_unlock(&cond_mutex);
}
static void release_cond(struct worker *w) {
  (void)w;
  pthread_mutex_lock(&cond_mutex);
  cond_flag = 1;
  pthread_cond_signal(&cond);
  pthread_mutex_unlock(&cond_mutex);
}
static void block_mutex(void) {
  CHECK_EQ("pthread_mutex_lock", 0, pthread_mutex_lock(&mutex));
  pthread_mutex_unlock(&mutex);
}
static void release_mutex(struct worker *w) {
  (void)w;
  CHECK_EQ("pthread_mutex_unlock", 0, pthread_mutex_unlock(&mutex));
}
static void block_sem(void) { CHECK("sem_wait", sem_wait(&sem) == 0); }
static void release_sem(struct worker *w) {
  (void)w;
  sem_post(&sem);
}
static void block_timed_sem(void) {
  struct timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += 3600;
  CHECK("sem_timedwait", sem_timedwait(&timed_sem, &deadline) == 0);
}
static void release_timed_sem(struct worker *w) {
  (void)w;
  sem_post(&timed_sem);
}
static void block_barrier(void) {
  int result = pthread_barrier_wait(&barrier);
  CHECK("pthread_barrier_wait", result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD);
}
static void release_barrier(struct worker *w) {
  (void)w;
  pthread_barrier_wait(&barrier);
}
static void block_rwlock(void) {
  CHECK_EQ("pthread_rwlock_wrlock", 0, pthread_rwlock_wrlock(&rwlock));
  pthread_rwlock_unlock(&rwlock);
}
static void release_rwlock(struct worker *w) {
  (void)w;
  CHECK_EQ("pthread_rwlock_unlock", 0, pthread_rwlock_unlock(&rwlock));
}
static void block_sigwait(void) {
  sigset_t set;
  int signal_number = 0;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  CHECK_EQ("sigwait", 0, sigwait(&set, &signal_number));
  CHECK_EQ("signal of sigwait", SIGUSR2, signal_number);
}
static void release_sigwait(struct worker *w) { pthread_kill(w->thread, SIGUSR2); }
static void count_signal(int number) {
  (void)number;
  pause_signals++;
}
static void block_pause(void) {
  CHECK_EQ("pause", -1, pause());
  CHECK_EQ("errno of pause", EINTR, errno);
  CHECK_EQ("signals before pause returned", 1, pause_signals);
}
static void release_pause(struct worker *w) { pthread_kill(w->thread, SIGUSR1); }
static void block_sleep(void) {
  struct timespec t = {.tv_nsec = 50 * 1000 * 1000};
  while (!sleep_flag) CHECK("nanosleep", nanosleep(&t, NULL) == 0);
}
static void release_sleep(struct worker *w) {
  (void)w;
  sleep_flag = 1;
}
static void block_join(void) {
  void *result = NULL;
  CHECK_EQ("pthread_join", 0, pthread_join(helper_thread, &result));
  CHECK_EQ("result of the joined thread", 0x1234, (intptr_t)result);
}
static void release_join(struct worker *w) {
  (void)w; /* the helper thread ends when futex_word changes */
}
static void block_futex(void) {
  while (futex_word == 0) {
    long result = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    CHECK("raw futex wait", result == 0 || errno == EAGAIN);
  }
}
static void release_futex(struct worker *w) {
  (void)w;
  futex_word = 1;
  syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1000, NULL, NULL, 0);
}
static void block_spin(void) {
  while (!spin_flag) syscall(SYS_sched_yield);
}
static void release_spin(struct worker *w) {
  (void)w;
  spin_flag = 1;
}

static struct worker workers[] = {
    {.name = "w-read", .block = block_read, .release = release_read},
    {.name = "w-poll", .block = block_poll, .release = release_poll},
    {.name = "w-ppoll", .block = block_ppoll, .release = release_ppoll},
    {.name = "w-select", .block = block_select, .release = release_select},
    {.name = "w-write", .block = block_write, .release = release_write},
    {.name = "w-cond", .block = block_cond, .release = release_cond},
    {.name = "w-mutex", .block = block_mutex, .release = release_mutex},
    {.name = "w-sem", .block = block_sem, .release = release_sem},
    {.name = "w-timed-sem", .block = block_timed_sem, .release = release_timed_sem},
    {.name = "w-barrier", .block = block_barrier, .release = release_barrier},
    {.name = "w-rwlock", .block = block_rwlock, .release = release_rwlock},
    {.name = "w-sigwait", .block = block_sigwait, .release = release_sigwait},
    {.name = "w-pause", .block = block_pause, .release = release_pause},
    {.name = "w-sleep", .block = block_sleep, .release = release_sleep},
    {.name = "w-join", .block = block_join, .release = release_join},
    {.name = "w-spin", .block = block_spin, .release = release_spin},
};
enum { kWorkers = sizeof workers / sizeof workers[0] };

static __thread uint64_t tls_word;
static __thread char tls_block[5000];
static pthread_barrier_t started;

/* Thread-specific signal mask: SIGUSR2 (for sigwait) and one more signal by index. */
static void own_mask(int index, sigset_t *set) {
  sigemptyset(set);
  sigaddset(set, SIGUSR2);
  sigaddset(set, SIGRTMIN + index);
}

static void *run_worker(void *argument) {
  struct worker *w = argument;
  int index = (int)(w - workers);
  sigset_t mask, mask_after;
  own_mask(index, &mask);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  pthread_setname_np(pthread_self(), w->name);
  stack_t stack = {.ss_size = 65536 + (size_t)index * 4096}, stack_after;
  stack.ss_sp =
      mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(sigaltstack(&stack, NULL) == 0);
  tls_word = test_pattern(7, (uint64_t)index);
  test_fill(tls_block, sizeof tls_block, (uint64_t)index);
  w->tid = gettid();
  pthread_barrier_wait(&started);

  w->block();

  char name[16], what[64];
  snprintf(what, sizeof what, "TLS word of %s", w->name);
  CHECK_EQ(what, test_pattern(7, (uint64_t)index), tls_word);
  test_check_fill("TLS block", tls_block, sizeof tls_block, (uint64_t)index);
  pthread_getname_np(pthread_self(), name, sizeof name);
  CHECK_STR("thread name", w->name, name);
  pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
  for (int s = 1; s <= 64; s++) {
    snprintf(what, sizeof what, "signal %d blocked in %s", s, w->name);
    CHECK_EQ(what, sigismember(&mask, s), sigismember(&mask_after, s));
  }
  sigaltstack(NULL, &stack_after);
  CHECK_EQ("alternate stack", (uintptr_t)stack.ss_sp, (uintptr_t)stack_after.ss_sp);
  CHECK_EQ("alternate stack size", stack.ss_size, stack_after.ss_size);
  CHECK_EQ("alternate stack flags", 0, stack_after.ss_flags);
  CHECK_EQ("thread id", w->tid, gettid());
  return w;
}

static void *run_helper(void *argument) {
  (void)argument;
  block_futex();
  return (void *)0x1234;
}

static void build_objects(void) {
  static char filler[65536];
  REQUIRE(pipe(read_pipe) == 0 && pipe(poll_pipe) == 0 && pipe(ppoll_pipe) == 0);
  REQUIRE(pipe(select_pipe) == 0 && pipe(full_pipe) == 0);
  REQUIRE(fcntl(full_pipe[1], F_SETPIPE_SZ, sizeof filler) == (int)sizeof filler);
  REQUIRE(write(full_pipe[1], filler, sizeof filler) == (ssize_t)sizeof filler);
  sem_init(&sem, 0, 0);
  sem_init(&timed_sem, 0, 0);
  pthread_barrier_init(&barrier, NULL, 2);
  pthread_barrier_init(&started, NULL, kWorkers + 1);
  pthread_mutex_lock(&mutex);
  pthread_rwlock_rdlock(&rwlock);
  struct sigaction action = {.sa_handler = count_signal};
  sigaction(SIGUSR1, &action, NULL);
}

int main(void) {
  build_objects();
  REQUIRE(pthread_create(&helper_thread, NULL, run_helper, NULL) == 0);
  for (int i = 0; i < kWorkers; i++)
    REQUIRE(pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) == 0);
  pthread_barrier_wait(&started);
  usleep(200000); /* from the barrier into the blocking calls */
  test_ready();
  test_wait();
  release_futex(NULL);
  for (int i = 0; i < kWorkers; i++) workers[i].release(&workers[i]);
  for (int i = 0; i < kWorkers; i++) {
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 20;
    void *result = NULL;
    if (pthread_timedjoin_np(workers[i].thread, &result, &deadline) != 0) {
      TEST_FAIL("%s, expected to end, got still waiting", workers[i].name);
      _exit(1);
    }
    CHECK("result of the thread", result == &workers[i]);
  }
  test_finish();
}
