/* SPDX-License-Identifier: MIT */
/* crtest: mode=live-any
 *
 * Timed calls of libc on epoll descriptors and sockets. Such descriptors may make a checkpoint be
 * refused; a refused attempt must leave the calls as undisturbed as a checkpoint that is taken.
 */
#define _GNU_SOURCE
#include "no_eintr.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>

static int epoll_fd, stream[2], datagram[2];

static long run_epoll_wait(void) {
  struct epoll_event event;
  return epoll_wait(epoll_fd, &event, 1, CALL_MS);
}
static long run_epoll_pwait(void) {
  struct epoll_event event;
  sigset_t all;
  sigfillset(&all);
  return epoll_pwait(epoll_fd, &event, 1, CALL_MS, &all);
}
static long run_recv(void) {
  char byte;
  return recv(stream[0], &byte, 1, 0);
}
static long run_read_socket(void) {
  char byte;
  return read(datagram[0], &byte, 1);
}
static long run_recvmsg(void) {
  char byte;
  struct iovec part = {&byte, 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  return recvmsg(datagram[1], &message, 0);
}

static struct timed_call calls[] = {
    {.name = "epoll_wait", .run = run_epoll_wait},
    {.name = "epoll_pwait", .run = run_epoll_pwait},
    {.name = "recv with SO_RCVTIMEO", .run = run_recv, .expected = -1, .expected_errno = EAGAIN},
    {.name = "read with SO_RCVTIMEO",
     .run = run_read_socket,
     .expected = -1,
     .expected_errno = EAGAIN},
    {.name = "recvmsg with SO_RCVTIMEO",
     .run = run_recvmsg,
     .expected = -1,
     .expected_errno = EAGAIN},
};

static void set_timeout(int fd) {
  struct timeval t = {0, CALL_NS / 1000};
  REQUIRE(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) == 0);
}

int main(void) {
  epoll_fd = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  int never = eventfd(0, 0);
  REQUIRE(epoll_fd >= 0 && never >= 0);
  REQUIRE(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, never, &event) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram) == 0);
  set_timeout(stream[0]);
  set_timeout(datagram[0]);
  set_timeout(datagram[1]);
  no_eintr_main(calls, sizeof calls / sizeof calls[0]);
}
