/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles timeout=240 peer=yes
 *
 * TCP connections to another process, which lives on: they come back as reset, what had come and
 * was not read first; one that the other had ended comes back at its end; one that was reset
 * already as it was; one that was being made without waiting fails. A blocked connect() goes on.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "sock_check.h"

static pthread_t blocked;
static int talking, silent, ended, told, untold, connecting, closed_both, port;

/* The other process, which the runner starts. It says its port in a file, and ends when told. */
static int be_peer(void) {
  alarm(300);
  int listening = socket(AF_INET, SOCK_STREAM, 0);
  REQUIRE(listen(listening, 10) == 0); /* binds it */
  FILE *f = fopen("peer.new", "w");
  REQUIRE(f != NULL && fprintf(f, "%d\n", sock_port(listening)) > 0 && fclose(f) == 0);
  REQUIRE(rename("peer.new", "peer") == 0);
  for (;;) {
    char how = 0;
    int fd = accept(listening, NULL, NULL);
    if (recv(fd, &how, 1, 0) != 1) continue;
    if (how == 'q') _exit(0);
    if (how != 'n') (void)!write(fd, "unread", 6);
    const struct linger at_once = {1, 0};
    if (how == 'r') setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    if (how == 'e' || how == 'r') close(fd);
  }
}

static int port_of_peer(void) {
  char text[16];
  REQUIRE(test_read_file("peer", text, sizeof text) > 0);
  return atoi(text);
}

static int connection(const char *how) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_storage a;
  socklen_t n = sock_address("127.0.0.1", port, &a);
  REQUIRE(connect(fd, (struct sockaddr *)&a, n) == 0 && send(fd, how, 1, 0) == 1);
  usleep(50000);
  return fd;
}

/* Nobody answers there; the machine may find out that there is no way after some seconds. */
static void *connect_blocking(void *unused) {
  struct sockaddr_storage a;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  const socklen_t n = sock_address("192.0.2.78", 9, &a);
  CHECK_EQ("blocked connect", -1, connect(fd, (struct sockaddr *)&a, n));
  CHECK("its errno", errno == EHOSTUNREACH || errno == ENETUNREACH || errno == ETIMEDOUT);
  return unused;
}

static void build(void) {
  struct sockaddr_storage a;
  char byte;
  port = port_of_peer();
  REQUIRE(pthread_create(&blocked, NULL, connect_blocking, NULL) == 0);
  talking = connection("t");
  silent = connection("n");
  ended = connection("e");
  untold = connection("r");
  told = connection("r");
  while (recv(told, &byte, 1, 0) >= 0) continue; /* until it is told of the reset */
  closed_both = connection("e");
  REQUIRE(recv(closed_both, (char[8]){0}, 6, 0) == 6 && shutdown(closed_both, SHUT_WR) == 0);
  connecting = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  socklen_t n = sock_address("192.0.2.77", 9, &a); /* nobody answers there */
  if (connect(connecting, (struct sockaddr *)&a, n) == 0 || errno != EINPROGRESS) {
    close(connecting);
    connecting = -1; /* a machine without a way there */
  }
}

static void check_reset(const char *what, int fd) {
  char byte;
  struct pollfd p = {.fd = fd, .events = POLLIN};
  CHECK_EQ(what, 1, poll(&p, 1, 0));
  CHECK(what, (p.revents & POLLERR) != 0);
  sock_check_error(what, fd, ECONNRESET);
  CHECK_EQ(what, 0, recv(fd, &byte, 1, MSG_DONTWAIT));
  CHECK_EQ(what, -1, send(fd, "x", 1, MSG_NOSIGNAL));
  CHECK_EQ(what, EPIPE, errno);
}

int main(int argc, char **argv) {
  (void)argv;
  if (argc > 1) return be_peer();
  char byte;
  build();
  test_ready();
  test_wait();
  sock_check_recv("what had come", talking, "unread");
  check_reset("then it is reset", talking);
  check_reset("without bytes", silent);
  sock_check_recv("in front of the end", ended, "unread");
  CHECK_EQ("the end", 0, recv(ended, &byte, 1, MSG_DONTWAIT));
  CHECK_EQ("no error", 0, sock_get(ended, SOL_SOCKET, SO_ERROR));
  send(ended, "x", 1, MSG_NOSIGNAL);
  CHECK_EQ("it cannot be written to for long", -1, send(ended, "x", 1, MSG_NOSIGNAL));
  CHECK_EQ("its errno", EPIPE, errno);
  sock_check_recv("before it was reset", untold, "unread");
  check_reset("a reset that was not seen yet", untold);
  CHECK_EQ("a reset that was seen is not told again", 0, sock_get(told, SOL_SOCKET, SO_ERROR));
  CHECK_EQ("its end", 0, recv(told, &byte, 1, MSG_DONTWAIT));
  CHECK_EQ("ended by both", 0, recv(closed_both, &byte, 1, MSG_DONTWAIT));
  CHECK_EQ("no error of that", 0, sock_get(closed_both, SOL_SOCKET, SO_ERROR));
  if (connecting >= 0) {
    struct pollfd p = {.fd = connecting, .events = POLLOUT};
    CHECK_EQ("what was being made", 1, poll(&p, 1, 0));
    CHECK_EQ("its SO_ERROR", ECONNRESET, sock_get(connecting, SOL_SOCKET, SO_ERROR));
  }
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec++;
  (void)pthread_timedjoin_np(blocked, NULL, &until); /* it may go on waiting */
  close(connection("q"));
  test_finish();
}
