/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live plugin=crplugin_io_uring
 * CR_BUILD: -luring
 *
 * io_uring by its plug-in: a ring with completions that were not reaped, submissions that were
 * prepared and not made, a registered buffer and a request that is under way when the checkpoint
 * comes; a second one, of another size, under two numbers and in an epoll set. Threads go on
 * submitting to rings of their own through all checkpoints.
 */
#define _GNU_SOURCE
#include <liburing.h>
#include <pthread.h>
#include <sys/epoll.h>

#include "three_phase.h"

enum { kUnreaped = 3, kBufferBytes = 8192, kWorkers = 2 };

static struct io_uring first, second;
static int file, copy_of_second, epoll_fd;
static char *buffer;
static volatile int stop_workers;
static volatile uint64_t rounds[kWorkers];

static struct io_uring_sqe *next(struct io_uring *ring, uint64_t number) {
  struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
  REQUIRE(sqe != NULL);
  io_uring_prep_nop(sqe);
  io_uring_sqe_set_data64(sqe, number);
  return sqe;
}

static int reap(struct io_uring *ring, uint64_t number) {
  struct io_uring_cqe *cqe = NULL;
  int r;
  while ((r = io_uring_wait_cqe(ring, &cqe)) == -EINTR) TEST_FAIL("io_uring_enter returned EINTR");
  CHECK_EQ("io_uring_wait_cqe", 0, r);
  if (r != 0) return -1;
  CHECK_EQ("number of the completion", number, io_uring_cqe_get_data64(cqe));
  r = cqe->res;
  io_uring_cqe_seen(ring, cqe);
  return r;
}

static void round_trips(struct io_uring *ring, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    next(ring, i);
    CHECK_EQ("io_uring_submit", 1, io_uring_submit(ring));
    CHECK_EQ("an empty request", 0, reap(ring, i));
  }
}

static void *worker(void *argument) {
  const intptr_t me = (intptr_t)argument;
  struct io_uring ring;
  char path[32], wrote[64], was[64];
  snprintf(path, sizeof path, "worker-%d", (int)me);
  const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(fd >= 0 && io_uring_queue_init(4, &ring, 0) == 0);
  for (uint64_t n = 1; !stop_workers; n++) {
    memset(wrote, (int)('a' + n % 26), sizeof wrote);
    struct io_uring_sqe *sqe = next(&ring, n);
    io_uring_prep_write(sqe, fd, wrote, sizeof wrote, 0);
    io_uring_sqe_set_data64(sqe, n);
    io_uring_submit(&ring);
    CHECK_EQ("bytes written", (int)sizeof wrote, reap(&ring, n));
    sqe = next(&ring, n);
    io_uring_prep_read(sqe, fd, was, sizeof was, 0);
    io_uring_sqe_set_data64(sqe, n);
    io_uring_submit_and_wait(&ring, 1);
    CHECK_EQ("bytes read", (int)sizeof was, reap(&ring, n));
    CHECK_BYTES("what was read", wrote, was, sizeof was);
    rounds[me] = n;
    if (n % 16 == 0) usleep(1000);
  }
  io_uring_queue_exit(&ring);
  return NULL;
}

static void build(void) {
  struct epoll_event e = {.events = EPOLLIN, .data.u64 = 42};
  REQUIRE(io_uring_queue_init(8, &first, 0) == 0);
  struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 256};
  REQUIRE(io_uring_queue_init_params(64, &second, &p) == 0);
  REQUIRE((copy_of_second = dup(second.ring_fd)) >= 0);
  REQUIRE((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) >= 0);
  REQUIRE(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, second.ring_fd, &e) == 0);
  REQUIRE((file = open("data", O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0);
  REQUIRE((buffer = aligned_alloc(4096, kBufferBytes)) != NULL);
  const struct iovec v = {buffer, kBufferBytes};
  REQUIRE(io_uring_register_buffers(&first, &v, 1) == 0);
  round_trips(&first, 1003);
  round_trips(&second, 70);
  for (uint64_t i = 0; i < kUnreaped; i++) next(&first, 500 + i);
  REQUIRE(io_uring_submit(&first) == kUnreaped);
  next(&first, 600);
  next(&first, 601);
  static struct __kernel_timespec soon = {.tv_nsec = 150000000};
  struct io_uring_sqe *sqe = next(&second, 700);
  io_uring_prep_timeout(sqe, &soon, 0, 0);
  io_uring_sqe_set_data64(sqe, 700);
  REQUIRE(io_uring_submit(&second) == 1);
}

static void check_first(void) {
  for (uint64_t i = 0; i < kUnreaped; i++) CHECK_EQ("not reaped", 0, reap(&first, 500 + i));
  CHECK_EQ("submissions that were prepared", 2, io_uring_submit(&first));
  CHECK_EQ("the first", 0, reap(&first, 600));
  CHECK_EQ("the second", 0, reap(&first, 601));
  test_fill(buffer, kBufferBytes, 9);
  struct io_uring_sqe *sqe = io_uring_get_sqe(&first);
  io_uring_prep_write_fixed(sqe, file, buffer, kBufferBytes, 0, 0);
  io_uring_sqe_set_data64(sqe, 800);
  CHECK_EQ("io_uring_submit", 1, io_uring_submit(&first));
  CHECK_EQ("written from the registered buffer", kBufferBytes, reap(&first, 800));
  memset(buffer, 0, kBufferBytes);
  CHECK_EQ("bytes of the file", kBufferBytes, pread(file, buffer, kBufferBytes, 0));
  test_check_fill("the file", buffer, kBufferBytes, 9);
  round_trips(&first, 100);
}

static void check_second(void) {
  struct epoll_event e = {0};
  CHECK_EQ("the timeout that was under way", -ETIME, reap(&second, 700));
  next(&second, 900);
  CHECK_EQ("io_uring_submit", 1, io_uring_submit(&second));
  CHECK_EQ("epoll_wait", 1, epoll_wait(epoll_fd, &e, 1, 5000));
  CHECK_EQ("data of the event", 42, e.data.u64);
  CHECK_EQ("the request", 0, reap(&second, 900));
  round_trips(&second, 200);
  CHECK_EQ("close on exec", FD_CLOEXEC, fcntl(second.ring_fd, F_GETFD));
  CHECK_EQ("close on exec of the copy", 0, fcntl(copy_of_second, F_GETFD));
  const int number = second.ring_fd; /* submit through the other number */
  second.ring_fd = second.enter_ring_fd = copy_of_second;
  round_trips(&second, 10);
  second.ring_fd = second.enter_ring_fd = number;
}

int main(void) {
  pthread_t threads[kWorkers];
  build();
  for (intptr_t i = 0; i < kWorkers; i++)
    REQUIRE(pthread_create(&threads[i], NULL, worker, (void *)i) == 0);
  while (rounds[0] < 10 || rounds[1] < 10) usleep(1000);
  test_ready();
  test_wait();
  const uint64_t then = rounds[0];
  const double give_up = test_now() + 20;
  while (rounds[0] == then && test_now() < give_up) usleep(1000);
  CHECK("a worker goes on", rounds[0] > then);
  check_first();
  check_second();
  stop_workers = 1;
  for (int i = 0; i < kWorkers; i++) pthread_join(threads[i], NULL);
  test_finish();
}
