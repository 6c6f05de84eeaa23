/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * Threads blocked in calls on sockets: accept, recv, recv with a timeout, send to a full queue,
 * connect to a full backlog, poll and epoll_wait. Each goes on after a restore and comes to its end
 * by what the main thread does then.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/epoll.h>

#include "sock_check.h"

enum { kThreads = 8 };

static int unix_listener, tcp_listener, pair[2], timed[2], full[2], polled[2], udp, epoll;
static int packed, late, datagram;

static void *accept_unix(void *unused) {
  int fd = accept(unix_listener, NULL, NULL);
  CHECK("accept, UNIX", fd >= 0);
  sock_check_recv("through it", fd, "unix");
  return unused;
}

static void *accept_tcp(void *unused) {
  int fd = accept(tcp_listener, NULL, NULL);
  CHECK("accept, TCP", fd >= 0);
  sock_check_recv("through it", fd, "tcp");
  return unused;
}

static void *receive(void *unused) {
  char got[8] = "";
  CHECK_EQ("recv", 4, recv(pair[0], got, sizeof got - 1, 0));
  CHECK_STR("what came", "wake", got);
  return unused;
}

static void *receive_timed(void *unused) {
  char got[8] = "";
  CHECK_EQ("recv with a timeout", 5, recv(timed[0], got, sizeof got - 1, 0));
  CHECK_STR("what came in time", "timed", got);
  return unused;
}

static void *send_full(void *unused) {
  CHECK_EQ("send to a full queue", 4, send(full[0], "last", 4, 0));
  return unused;
}

static void *connect_full(void *unused) {
  CHECK_EQ("connect to a full backlog", 0, sock_unix_connect(late, "packed"));
  CHECK_EQ("and send", 4, send(late, "late", 4, 0));
  return unused;
}

static void *poll_both(void *unused) {
  struct pollfd p[2] = {{.fd = polled[0], .events = POLLIN}, {.fd = udp, .events = POLLIN}};
  CHECK_EQ("poll", 1, poll(p, 2, -1));
  CHECK_EQ("which one", POLLIN, p[1].revents);
  sock_check_recv("the datagram", udp, "datagram");
  return unused;
}

static void *wait_epoll(void *unused) {
  struct epoll_event e = {0};
  CHECK_EQ("epoll_wait", 1, epoll_wait(epoll, &e, 1, -1));
  CHECK_EQ("which one", 4711, e.data.u64);
  return unused;
}

static void build(void) {
  const struct timeval timeout = {60, 0};
  struct sockaddr_storage a;
  unix_listener = sock_unix(SOCK_STREAM, "listens");
  tcp_listener = socket(AF_INET, SOCK_STREAM, 0);
  socklen_t n = sock_address("127.0.0.1", 0, &a);
  sock_set(tcp_listener, SOL_SOCKET, SO_REUSEADDR, 1);
  REQUIRE(bind(tcp_listener, (struct sockaddr *)&a, n) == 0);
  REQUIRE(listen(unix_listener, 3) == 0 && listen(tcp_listener, 3) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, timed) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, full) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, polled) == 0);
  REQUIRE(setsockopt(timed[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0);
  sock_set(full[0], SOL_SOCKET, SO_SNDBUF, 5000);
  while (send(full[0], "fill", 4, MSG_DONTWAIT) == 4) continue;
  REQUIRE(errno == EAGAIN);
  packed = sock_unix(SOCK_STREAM, "packed");
  REQUIRE(listen(packed, 0) == 0);
  REQUIRE(sock_unix_connect(sock_unix(SOCK_STREAM, NULL), "packed") == 0);
  late = sock_unix(SOCK_STREAM, NULL);
  udp = sock_bound(AF_INET, SOCK_DGRAM, "127.0.0.1", 0);
  datagram = socket(AF_INET, SOCK_DGRAM, 0);
  sock_connect(datagram, "127.0.0.1", sock_port(udp));
  epoll = epoll_create1(0);
  struct epoll_event e = {.events = EPOLLIN, .data.u64 = 4711};
  REQUIRE(epoll_ctl(epoll, EPOLL_CTL_ADD, polled[1], &e) == 0);
}

static void wake_all(void) {
  char got[8];
  int fd = sock_unix(SOCK_STREAM, NULL);
  CHECK_EQ("connect", 0, sock_unix_connect(fd, "listens"));
  CHECK_EQ("send", 4, send(fd, "unix", 4, 0));
  fd = socket(AF_INET, SOCK_STREAM, 0);
  sock_connect(fd, "127.0.0.1", sock_port(tcp_listener));
  CHECK_EQ("send", 3, send(fd, "tcp", 3, 0));
  CHECK_EQ("send", 4, send(pair[1], "wake", 4, 0));
  CHECK_EQ("send", 5, send(timed[1], "timed", 5, 0));
  int packets = 0;
  while (recv(full[1], got, sizeof got, MSG_DONTWAIT) == 4 || packets == 0) packets++;
  CHECK("packets that filled the queue", packets > 3);
  CHECK("the one in front", accept(packed, NULL, NULL) >= 0);
  fd = accept(packed, NULL, NULL);
  CHECK("the one that waited", fd >= 0);
  sock_check_recv("through it", fd, "late");
  CHECK_EQ("send", 8, send(datagram, "datagram", 8, 0));
  CHECK_EQ("send", 1, send(polled[0], "x", 1, 0));
}

int main(void) {
  static void *(*const kWork[kThreads])(void *) = {accept_unix,   accept_tcp, receive,
                                                   receive_timed, send_full,  connect_full,
                                                   poll_both,     wait_epoll};
  pthread_t threads[kThreads];
  build();
  for (int i = 0; i < kThreads; i++)
    REQUIRE(pthread_create(&threads[i], NULL, kWork[i], NULL) == 0);
  usleep(100000); /* let them block */
  test_ready();
  test_wait();
  alarm(20);
  wake_all();
  for (int i = 0; i < kThreads; i++) pthread_join(threads[i], NULL);
  test_finish();
}
