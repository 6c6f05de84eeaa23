/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live users=root,nobody pause=0.4
 *
 * Calls that wait, each in a thread of its own. Those with a timeout must take as long as they were
 * asked to, no shorter and no longer, not counting the time in which the program was dead or held,
 * which the runner tells (a clock that a thread of ours moves would stand while that is starved);
 * those without must end when, and only when, what they wait for has come: raw futex calls of all
 * kinds, locks on files, System V message queues and semaphores, signals, reads of timers and
 * counters.
 * (Calls through libc are in threads.c, contended pthread objects in mutex_cond.c.)
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "raw_syscall.h"
#include "three_phase.h"

#define TOTAL_NS (2500ll * 1000 * 1000)
#define MOST_EARLY_NS (100ll * 1000 * 1000)
#define MOST_LATE_NS (700ll * 1000 * 1000)
enum { kFutexWaitv = 449, kEpollPwait2 = 441, kOfdSetlk = 37, kOfdSetlkw = 38 };

static volatile int releasing;
static const struct timespec total = {TOTAL_NS / 1000000000, TOTAL_NS % 1000000000};
static const struct timeval total_us = {TOTAL_NS / 1000000000, TOTAL_NS % 1000000000 / 1000};

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t); /* as the runner's */
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int empty_pipe[2], epoll_fd, counter, timer, queue, semaphores, lock_file, lock_same;
static uint32_t word, words[2], pi_word, moved_from, moved_to;
static volatile sig_atomic_t handled;

/* ---- with a timeout -------------------------------------------------------------------------- */

static long t_nanosleep(void) { return raw_syscall(SYS_nanosleep, &total, NULL); }
static long t_clock_nanosleep(void) {
  return raw_syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &total, NULL);
}
static long t_poll(void) {
  struct pollfd p = {.fd = empty_pipe[0], .events = POLLIN};
  return raw_syscall(SYS_poll, &p, 1, TOTAL_NS / 1000000);
}
static long t_ppoll(void) {
  struct pollfd p = {.fd = empty_pipe[0], .events = POLLIN};
  struct timespec left = total;
  return raw_syscall(SYS_ppoll, &p, 1, &left, NULL, 8);
}
/* The kernel cannot write the time left to a timeout in read-only memory: then it gives EINTR. */
static long t_ppoll_constant(void) {
  struct pollfd p = {.fd = empty_pipe[0], .events = POLLIN};
  return raw_syscall(SYS_ppoll, &p, 1, &total, NULL, 8);
}
static long t_select_constant(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(empty_pipe[0], &set);
  return raw_syscall(SYS_select, empty_pipe[0] + 1, &set, NULL, NULL, &total_us);
}
static long t_pselect_constant(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(empty_pipe[0], &set);
  return raw_syscall(SYS_pselect6, empty_pipe[0] + 1, &set, NULL, NULL, &total, NULL);
}
static long t_pselect(void) {
  struct timespec left = total;
  uint64_t mask = 1ull << (SIGUSR1 - 1);
  struct {
    const uint64_t *mask;
    size_t size;
  } argument = {&mask, 8};
  return raw_syscall(SYS_pselect6, 0, NULL, NULL, NULL, &left, &argument);
}
static long t_epoll_wait(void) {
  struct epoll_event e;
  return raw_syscall(SYS_epoll_wait, epoll_fd, &e, 1, TOTAL_NS / 1000000);
}
static long t_epoll_pwait2(void) {
  struct epoll_event e;
  return raw_syscall(kEpollPwait2, epoll_fd, &e, 1, &total, NULL, 8);
}
static long t_futex(void) { return raw_syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &total); }
static long t_sigtimedwait(void) {
  const uint64_t set = 1ull << (SIGRTMAX - 2);
  return raw_syscall(SYS_rt_sigtimedwait, &set, NULL, &total, 8);
}
static long t_semtimedop(void) {
  struct sembuf wait = {.sem_num = 0, .sem_op = -1};
  return raw_syscall(SYS_semtimedop, semaphores, &wait, 1, &total);
}

/* ---- without --------------------------------------------------------------------------------- */

static long u_epoll_pwait2(void) {
  struct epoll_event e = {0};
  const long r = raw_syscall(kEpollPwait2, epoll_fd, &e, 1, NULL, NULL, 8);
  CHECK_EQ("data of the event", 77, e.data.u64);
  return r;
}
static void r_pipe(void) { REQUIRE(write(empty_pipe[1], "x", 1) == 1); }
static long u_futex_bitset(void) {
  return raw_syscall(SYS_futex, &words[0], FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 4);
}
static void r_futex_bitset(void) {
  raw_syscall(SYS_futex, &words[0], FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 2);
  usleep(20000); /* nobody waits for those bits */
  raw_syscall(SYS_futex, &words[0], FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 4);
}
struct waitv {
  uint64_t value, address;
  uint32_t flags, reserved;
};
static uint32_t vector_words[2];
static long u_futex_waitv(void) {
  const struct waitv w[2] = {{0, (uintptr_t)&vector_words[0], 0x82, 0},
                             {0, (uintptr_t)&vector_words[1], 0x82, 0}};
  return raw_syscall(kFutexWaitv, w, 2, 0, NULL, 0);
}
static void r_futex_waitv(void) { raw_syscall(SYS_futex, &vector_words[1], FUTEX_WAKE_PRIVATE, 1); }
/* Moved from one futex to another while it waits: a wake-up on the second ends it, and where the
 * first has to be asked again that has changed. */
static long u_futex_moved(void) {
  while (__atomic_load_n(&moved_to, __ATOMIC_SEQ_CST) == 0) {
    const uint32_t *at = moved_from == 0 ? &moved_from : &moved_to;
    const long r = raw_syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, 0, NULL);
    if (r != 0 && r != -EAGAIN) return r;
  }
  return 0;
}
static void move_waiter(void) {
  while (raw_syscall(SYS_futex, &moved_from, FUTEX_CMP_REQUEUE_PRIVATE, 0, 1, &moved_to, 0) != 1)
    usleep(1000);
  moved_from = 1;
}
static void r_futex_moved(void) {
  __atomic_store_n(&moved_to, 1, __ATOMIC_SEQ_CST);
  raw_syscall(SYS_futex, &moved_to, FUTEX_WAKE_PRIVATE, 1);
}
static long u_futex_pi(void) {
  const long r = raw_syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL);
  CHECK_EQ("owner of the futex", gettid(), pi_word & FUTEX_TID_MASK);
  return r;
}
static void r_futex_pi(void) {
  CHECK_EQ("its unlocking", 0, raw_syscall(SYS_futex, &pi_word, FUTEX_UNLOCK_PI_PRIVATE));
}
static long u_msgrcv(void) {
  struct {
    long type;
    char text[8];
  } m;
  const long r = raw_syscall(SYS_msgrcv, queue, &m, sizeof m.text, 5, 0);
  CHECK_EQ("the message", 'm', m.text[0]);
  return r;
}
static void r_msgrcv(void) {
  struct {
    long type;
    char text[8];
  } m = {4, "no"};
  REQUIRE(msgsnd(queue, &m, 3, 0) == 0);
  m.type = 5;
  m.text[0] = 'm';
  REQUIRE(msgsnd(queue, &m, 3, 0) == 0);
}
static long u_semop(void) {
  struct sembuf wait = {.sem_num = 1, .sem_op = -2};
  return raw_syscall(SYS_semop, semaphores, &wait, 1);
}
static void r_semop(void) {
  struct sembuf post = {.sem_num = 1, .sem_op = 2};
  REQUIRE(semop(semaphores, &post, 1) == 0);
}
static int flock_here, flock_there;
static long u_flock(void) { return raw_syscall(SYS_flock, flock_there, LOCK_EX); }
static void r_flock(void) { REQUIRE(flock(flock_here, LOCK_UN) == 0); }
static long u_setlkw(void) {
  const struct flock l = {.l_type = F_WRLCK, .l_start = 10, .l_len = 5};
  return raw_syscall(SYS_fcntl, lock_same, F_SETLKW, &l);
}
static void r_setlkw(void) {
  const struct flock l = {.l_type = F_UNLCK, .l_start = 10, .l_len = 5};
  REQUIRE(fcntl(lock_file, kOfdSetlk, &l) == 0);
}
static long u_ofd_setlkw(void) {
  const struct flock l = {.l_type = F_WRLCK, .l_start = 30, .l_len = 5};
  return raw_syscall(SYS_fcntl, lock_same, kOfdSetlkw, &l);
}
static void r_ofd_setlkw(void) {
  const struct flock l = {.l_type = F_UNLCK, .l_start = 30, .l_len = 5};
  REQUIRE(fcntl(lock_file, kOfdSetlk, &l) == 0);
}
static void on_signal(int number) {
  (void)number;
  handled++;
}
static pthread_t suspended;
static long u_sigsuspend(void) {
  const uint64_t none = 0;
  sigset_t after;
  suspended = pthread_self();
  const long r = raw_syscall(SYS_rt_sigsuspend, &none, 8);
  pthread_sigmask(SIG_SETMASK, NULL, &after);
  CHECK_EQ("the mask afterwards", 1, sigismember(&after, SIGUSR2));
  CHECK_EQ("signals", 1, handled);
  return r == -EINTR ? 0 : r - 1000;
}
static void r_sigsuspend(void) { pthread_kill(suspended, SIGUSR2); }
static long u_eventfd(void) {
  uint64_t value = 0;
  const long r = raw_syscall(SYS_read, counter, &value, 8);
  CHECK_EQ("the counter", 9, value);
  return r - 8;
}
static void r_eventfd(void) {
  const uint64_t nine = 9;
  REQUIRE(write(counter, &nine, 8) == 8);
}
static long u_timerfd(void) {
  uint64_t ticks = 0;
  const long r = raw_syscall(SYS_read, timer, &ticks, 8);
  CHECK_EQ("expirations", 1, ticks);
  return r - 8;
}
static void r_timerfd(void) {
  const struct itimerspec soon = {.it_value = {0, 1000000}};
  REQUIRE(timerfd_settime(timer, 0, &soon, NULL) == 0);
}

/* ---- all of them ----------------------------------------------------------------------------- */

struct call {
  const char *name;
  long (*run)(void);
  void (*release)(void); /* NULL: it has a timeout */
  long expected;
  pthread_t thread;
  int joined;
  long long begin_ns, end_ns;
};
static struct call calls[] = {
    {.name = "nanosleep", .run = t_nanosleep},
    {.name = "clock_nanosleep", .run = t_clock_nanosleep},
    {.name = "poll", .run = t_poll},
    {.name = "ppoll", .run = t_ppoll},
    {.name = "ppoll with a constant", .run = t_ppoll_constant},
    {.name = "select with a constant", .run = t_select_constant},
    {.name = "pselect6 with a constant", .run = t_pselect_constant},
    {.name = "pselect6 with a mask", .run = t_pselect},
    {.name = "epoll_wait", .run = t_epoll_wait},
    {.name = "epoll_pwait2", .run = t_epoll_pwait2},
    {.name = "futex", .run = t_futex, .expected = -ETIMEDOUT},
    {.name = "rt_sigtimedwait", .run = t_sigtimedwait, .expected = -EAGAIN},
    {.name = "semtimedop", .run = t_semtimedop, .expected = -EAGAIN},
    {.name = "epoll_pwait2 for ever", .run = u_epoll_pwait2, .release = r_pipe, .expected = 1},
    {.name = "futex with bits", .run = u_futex_bitset, .release = r_futex_bitset},
    {.name = "futex_waitv", .run = u_futex_waitv, .release = r_futex_waitv, .expected = 1},
    {.name = "futex, moved", .run = u_futex_moved, .release = r_futex_moved},
    {.name = "futex with priority inheritance", .run = u_futex_pi, .release = r_futex_pi},
    {.name = "msgrcv", .run = u_msgrcv, .release = r_msgrcv, .expected = 3},
    {.name = "semop", .run = u_semop, .release = r_semop},
    {.name = "flock", .run = u_flock, .release = r_flock},
    {.name = "F_SETLKW", .run = u_setlkw, .release = r_setlkw},
    {.name = "F_OFD_SETLKW", .run = u_ofd_setlkw, .release = r_ofd_setlkw},
    {.name = "rt_sigsuspend", .run = u_sigsuspend, .release = r_sigsuspend},
    {.name = "read of an eventfd", .run = u_eventfd, .release = r_eventfd},
    {.name = "read of a timerfd", .run = u_timerfd, .release = r_timerfd},
};
enum { kCalls = sizeof calls / sizeof *calls };

static pthread_barrier_t started;

static void *run_call(void *argument) {
  struct call *c = argument;
  pthread_barrier_wait(&started);
  c->begin_ns = now_ns();
  const long result = c->run();
  c->end_ns = now_ns();
  CHECK_EQ(c->name, c->expected, result);
  if (c->release != NULL && !releasing)
    TEST_FAIL("%s, expected to wait, got an end before its time", c->name);
  return NULL;
}

/* A stop, by CLOCK_REALTIME. The checkpoint was captured between the first two; if restored_ns is
 * not 0 the program was dead then, and came back from it; it ran again before the last. */
struct stop {
  long long asked_ns, captured_ns, restored_ns, answered_ns;
};

/* As the runner has written them down (Session.ping() in harness.py); returns their number. */
static int read_stops(struct stop *stops, int most) {
  char text[4096];
  int n = 0, used = 0;
  if (test_read_file(test_file("CRTEST_STOPS", "stops"), text, sizeof text) <= 0) return 0;
  for (const char *at = text; n < most; at += used) {
    struct stop *s = &stops[n];
    if (sscanf(at, "%lld %lld %lld %lld\n%n", &s->asked_ns, &s->captured_ns, &s->restored_ns,
               &s->answered_ns, &used) != 4)
      break;
    n++;
  }
  return n;
}

/* How long could it run meanwhile, at least and at most? */
static void check_time(const struct call *c, const struct stop *stops, int count) {
  long long least = c->end_ns - c->begin_ns, most = least;
  for (int i = 0; i < count; i++) {
    const struct stop *s = &stops[i];
    if (c->end_ns <= s->captured_ns) continue; /* it had ended before */
    least -= s->answered_ns - s->asked_ns;
    if (s->restored_ns != 0) most -= s->restored_ns - s->captured_ns;
  }
  if (most < TOTAL_NS - MOST_EARLY_NS || least > TOTAL_NS + MOST_LATE_NS)
    TEST_FAIL("%s, expected %lld ns, got between %lld and %lld", c->name, TOTAL_NS, least, most);
}

static void remove_outside(void) {
  msgctl(queue, IPC_RMID, NULL);
  semctl(semaphores, 0, IPC_RMID);
}

static void build(void) {
  struct epoll_event e = {.events = EPOLLIN, .data.u64 = 77};
  struct sigaction action = {.sa_handler = on_signal};
  const struct flock both = {.l_type = F_WRLCK, .l_start = 0, .l_len = 100};
  REQUIRE(pipe(empty_pipe) == 0);
  REQUIRE((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0);
  REQUIRE(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, empty_pipe[0], &e) == 0);
  REQUIRE((counter = eventfd(0, EFD_CLOEXEC)) >= 0);
  REQUIRE((timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) >= 0);
  REQUIRE((queue = msgget(IPC_PRIVATE, 0600)) >= 0);
  REQUIRE((semaphores = semget(IPC_PRIVATE, 2, 0600)) >= 0);
  REQUIRE((lock_file = open("locked", O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0);
  REQUIRE((lock_same = open("locked", O_RDWR | O_CLOEXEC)) >= 0);
  REQUIRE((flock_here = open("flocked", O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0);
  REQUIRE((flock_there = open("flocked", O_RDWR | O_CLOEXEC)) >= 0);
  REQUIRE(fcntl(lock_file, kOfdSetlk, &both) == 0);
  REQUIRE(flock(flock_here, LOCK_EX) == 0);
  REQUIRE(raw_syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL) == 0);
  sigaction(SIGUSR2, &action, NULL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigaddset(&set, SIGRTMAX - 2);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static int timed_calls_left(void) {
  int left = 0;
  for (int i = 0; i < kCalls; i++) {
    if (calls[i].release != NULL || calls[i].joined) continue;
    calls[i].joined = pthread_tryjoin_np(calls[i].thread, NULL) == 0;
    left += !calls[i].joined;
  }
  return left;
}

int main(void) {
  build();
  pthread_barrier_init(&started, NULL, kCalls + 1);
  for (int i = 0; i < kCalls; i++)
    REQUIRE(pthread_create(&calls[i].thread, NULL, run_call, &calls[i]) == 0);
  pthread_barrier_wait(&started);
  move_waiter();
  usleep(100000);
  test_ready();
  test_wait();
  const double give_up = test_now() + 20;
  while (timed_calls_left() > 0 && test_now() < give_up) usleep(2000);
  CHECK_EQ("calls with a timeout that still wait", 0, timed_calls_left());
  struct stop stops[16];
  const int count = read_stops(stops, sizeof stops / sizeof *stops);
  for (int i = 0; i < kCalls; i++) {
    if (calls[i].release == NULL && calls[i].joined) check_time(&calls[i], stops, count);
  }
  releasing = 1;
  for (int i = 0; i < kCalls; i++) {
    if (calls[i].release == NULL) continue;
    calls[i].release();
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 5;
    if (pthread_timedjoin_np(calls[i].thread, NULL, &deadline) != 0)
      TEST_FAIL("%s, expected to end, got still waiting", calls[i].name);
  }
  remove_outside();
  if (test_failures != 0) _exit(1);
  test_finish();
}
