/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live timeout=240
 *
 * TCP inside this process: listening sockets of both families with their options and backlog,
 * connections with their ports and options, bytes waiting in both directions, half-closed ones,
 * one whose server does not listen any more, and connections that were not accepted yet.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>

#include "sock_check.h"

enum { kMuch = 300000, kBacklog = 6 };

struct connection {
  int client, server, client_port, server_port;
};

static int listen4, listen6, only6, listen_all, waiting, port4, port6, port_only6, port_all;
static struct connection plain, half, mixed, orphan, ipv6, left;
static char much[kMuch];

static int listener(int family, const char *address, int reuse, int only) {
  int fd = socket(family, SOCK_STREAM, 0);
  struct sockaddr_storage a;
  REQUIRE(fd >= 0);
  if (reuse) sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (only) sock_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  socklen_t n = sock_address(address, 0, &a);
  REQUIRE(bind(fd, (struct sockaddr *)&a, n) == 0 && listen(fd, kBacklog) == 0);
  return fd;
}

static struct connection connect_to(int listening, int family, const char *address) {
  struct connection c;
  c.client = socket(family, SOCK_STREAM, 0);
  sock_connect(c.client, address, sock_port(listening));
  c.server = accept(listening, NULL, NULL);
  REQUIRE(c.client >= 0 && c.server >= 0);
  c.client_port = sock_port(c.client);
  c.server_port = sock_port(listening);
  return c;
}

static void put(int fd, const void *data, size_t size) {
  REQUIRE(send(fd, data, size, MSG_NOSIGNAL) == (ssize_t)size);
}

static void build(void) {
  test_fill(much, sizeof much, 3);
  listen4 = listener(AF_INET, "127.0.0.1", 1, 0);
  listen6 = listener(AF_INET6, "::1", 0, 0);
  only6 = listener(AF_INET6, "::", 1, 1);
  listen_all = listener(AF_INET6, "::", 1, 0);
  sock_set(listen4, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
  sock_set(listen4, SOL_SOCKET, SO_KEEPALIVE, 1);
  REQUIRE(fcntl(listen4, F_SETFL, O_NONBLOCK) == 0);
  port4 = sock_port(listen4);
  port6 = sock_port(listen6);
  port_only6 = sock_port(only6);
  port_all = sock_port(listen_all);
  plain = connect_to(listen4, AF_INET, "127.0.0.1");
  put(plain.client, "request", 7);
  put(plain.server, much, sizeof much);
  sock_set(plain.client, IPPROTO_TCP, TCP_NODELAY, 1);
  sock_set(plain.server, IPPROTO_TCP, TCP_KEEPIDLE, 77);
  sock_set(plain.client, SOL_SOCKET, SO_RCVBUF, 90000);
  half = connect_to(listen4, AF_INET, "127.0.0.1");
  put(half.client, "and that is all", 15);
  REQUIRE(shutdown(half.client, SHUT_WR) == 0);
  put(half.server, "answer", 6);
  ipv6 = connect_to(listen6, AF_INET6, "::1");
  put(ipv6.client, "six", 3);
  mixed = connect_to(listen_all, AF_INET, "127.0.0.1");
  put(mixed.client, "four to six", 11);
  left = connect_to(listen4, AF_INET, "127.0.0.1");
  put(left.server, "left behind", 11);
  close(left.server);
  int once = listener(AF_INET, "127.0.0.1", 0, 0);
  orphan = connect_to(once, AF_INET, "127.0.0.1");
  close(once);
  waiting = socket(AF_INET, SOCK_STREAM, 0);
  sock_connect(waiting, "127.0.0.1", port4);
}

static void check_ports(const char *what, struct connection c) {
  CHECK_EQ(what, c.client_port, sock_port(c.client));
  CHECK_EQ(what, c.server_port, sock_peer_port(c.client));
  CHECK_EQ(what, c.server_port, sock_port(c.server));
  CHECK_EQ(what, c.client_port, sock_peer_port(c.server));
}

static void check_talk(const char *what, struct connection c) {
  check_ports(what, c);
  CHECK_EQ(what, 4, send(c.client, "ping", 4, MSG_NOSIGNAL));
  sock_check_recv(what, c.server, "ping");
  CHECK_EQ(what, 4, send(c.server, "pong", 4, MSG_NOSIGNAL));
  sock_check_recv(what, c.client, "pong");
}

static void check_much(void) {
  static char got[kMuch + 1];
  size_t done = 0;
  struct pollfd p = {.fd = plain.client, .events = POLLIN};
  while (done < kMuch && poll(&p, 1, 2000) > 0) {
    ssize_t n = recv(plain.client, got + done, sizeof got - done, MSG_DONTWAIT);
    if (n <= 0) break;
    done += (size_t)n;
  }
  CHECK_EQ("bytes that waited", kMuch, done);
  CHECK_BYTES("what they are", much, got, kMuch);
  sock_check_recv("the other direction", plain.server, "request");
  CHECK_EQ("TCP_NODELAY", 1, sock_get(plain.client, IPPROTO_TCP, TCP_NODELAY));
  CHECK_EQ("TCP_NODELAY of the server", 0, sock_get(plain.server, IPPROTO_TCP, TCP_NODELAY));
  CHECK_EQ("TCP_KEEPIDLE", 77, sock_get(plain.server, IPPROTO_TCP, TCP_KEEPIDLE));
  CHECK_EQ("SO_KEEPALIVE, inherited", 1, sock_get(plain.server, SOL_SOCKET, SO_KEEPALIVE));
  CHECK_EQ("SO_REUSEADDR, inherited", 1, sock_get(plain.server, SOL_SOCKET, SO_REUSEADDR));
  CHECK_EQ("SO_REUSEADDR of the client", 0, sock_get(plain.client, SOL_SOCKET, SO_REUSEADDR));
  CHECK_EQ("SO_RCVBUF", 180000, sock_get(plain.client, SOL_SOCKET, SO_RCVBUF));
  check_talk("a connection", plain);
}

static void check_half(void) {
  char got[4];
  sock_check_recv("in front of the end", half.server, "and that is all");
  CHECK_EQ("the end", 0, recv(half.server, got, sizeof got, 0));
  sock_check_recv("the way that is open", half.client, "answer");
  put(half.server, "more", 4);
  sock_check_recv("and stays so", half.client, "more");
  CHECK_EQ("send through the end that was shut", -1, send(half.client, "x", 1, MSG_NOSIGNAL));
  CHECK_EQ("its errno", EPIPE, errno);
  check_ports("half of a connection", half);
}

static void check_listener(const char *what, int fd, int port, int family, const char *to) {
  struct tcp_info info;
  socklen_t n = sizeof info;
  CHECK_EQ(what, port, sock_port(fd));
  CHECK_EQ(what, 1, sock_get(fd, SOL_SOCKET, SO_ACCEPTCONN));
  CHECK_EQ(what, 0, getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n));
  CHECK_EQ("backlog", kBacklog, info.tcpi_sacked);
  struct connection c = connect_to(fd, family, to);
  put(c.client, "new", 3);
  sock_check_recv(what, c.server, "new");
  close(c.client);
  close(c.server);
}

int main(void) {
  char got[4];
  build();
  test_ready();
  test_wait();
  check_much();
  check_half();
  sock_check_recv("left by a closed server", left.client, "left behind");
  CHECK_EQ("then the end", 0, recv(left.client, got, sizeof got, 0));
  sock_check_recv("IPv6", ipv6.server, "six");
  check_talk("IPv6", ipv6);
  sock_check_recv("IPv4 to IPv6", mixed.server, "four to six");
  check_talk("IPv4 to IPv6", mixed);
  check_talk("a connection without its listener", orphan);
  CHECK_EQ("O_NONBLOCK", O_NONBLOCK, fcntl(listen4, F_GETFL) & O_NONBLOCK);
  int accepted = accept(listen4, NULL, NULL);
  CHECK("the connection that waits", accepted >= 0);
  CHECK_EQ("from whom", sock_port(waiting), sock_peer_port(accepted));
  put(waiting, "me", 2);
  sock_check_recv("what it says", accepted, "me");
  CHECK_EQ("no other one", -1, accept(listen4, NULL, NULL));
  CHECK_EQ("SO_REUSEADDR", 1, sock_get(listen4, SOL_SOCKET, SO_REUSEADDR));
  CHECK_EQ("without SO_REUSEADDR", 0, sock_get(listen6, SOL_SOCKET, SO_REUSEADDR));
  CHECK_EQ("IPV6_V6ONLY", 1, sock_get(only6, IPPROTO_IPV6, IPV6_V6ONLY));
  CHECK_EQ("without IPV6_V6ONLY", 0, sock_get(listen_all, IPPROTO_IPV6, IPV6_V6ONLY));
  check_listener("IPv4", listen4, port4, AF_INET, "127.0.0.1");
  check_listener("IPv6", listen6, port6, AF_INET6, "::1");
  check_listener("only IPv6", only6, port_only6, AF_INET6, "::1");
  check_listener("all, by IPv4", listen_all, port_all, AF_INET, "127.0.0.1");
  close(orphan.server);
  CHECK_EQ("a closed connection ends", 0, recv(orphan.client, got, sizeof got, 0));
  test_finish();
}
