/* SPDX-License-Identifier: MIT */
/* sock_check.h - what the programs about sockets share. Nothing here waits for ever. */
#ifndef TESTS_SYSTEM_SOCK_CHECK_H
#define TESTS_SYSTEM_SOCK_CHECK_H

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "three_phase.h"

static inline void sock_set(int fd, int level, int name, int value) {
  REQUIRE(setsockopt(fd, level, name, &value, sizeof value) == 0);
}

static inline int sock_get(int fd, int level, int name) {
  int value = -12345;
  socklen_t size = sizeof value;
  if (getsockopt(fd, level, name, &value, &size) != 0) return -12345;
  return value;
}

static inline int sock_waiting(int fd) {
  int bytes = -1;
  return ioctl(fd, SIOCINQ, &bytes) == 0 ? bytes : -1;
}

/* The next message, or as many bytes of a stream, within a second. */
static inline void sock_check_recv(const char *what, int fd, const char *expected) {
  char got[256] = "";
  struct pollfd p = {.fd = fd, .events = POLLIN};
  poll(&p, 1, 1000);
  errno = 0;
  ssize_t n = recv(fd, got, sizeof got - 1, MSG_DONTWAIT);
  if (n < 0)
    TEST_FAIL("%s, expected \"%s\", got errno %d (%s)", what, expected, errno, strerror(errno));
  CHECK_STR(what, expected, got);
  CHECK_EQ(what, strlen(expected), n);
}

static inline void sock_check_error(const char *what, int fd, int expected) {
  char byte;
  errno = 0;
  CHECK_EQ(what, -1, recv(fd, &byte, 1, MSG_DONTWAIT));
  CHECK_EQ(what, expected, errno);
}

static inline void sock_check_empty(const char *what, int fd) {
  sock_check_error(what, fd, EAGAIN);
}

static inline void sock_send_fds(int fd, const char *text, const int *fds, size_t count) {
  char control[256] = "";
  struct iovec part = {(void *)text, strlen(text)};
  struct msghdr h = {.msg_iov = &part,
                     .msg_iovlen = 1,
                     .msg_control = control,
                     .msg_controllen = CMSG_SPACE(count * sizeof(int))};
  struct cmsghdr *c = CMSG_FIRSTHDR(&h);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(c), fds, count * sizeof(int));
  REQUIRE(sendmsg(fd, &h, MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

/* Up to `size` bytes, ended by zero. Returns how many descriptors came with them, or -1. */
static inline int sock_recv_fds(int fd, size_t size, char *text, int *fds) {
  char control[256];
  struct iovec part = {text, size};
  struct msghdr h = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t n = recvmsg(fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) return -1;
  text[n] = '\0';
  struct cmsghdr *c = CMSG_FIRSTHDR(&h);
  if (c == NULL || c->cmsg_type != SCM_RIGHTS) return 0;
  const size_t bytes = c->cmsg_len - CMSG_LEN(0);
  memcpy(fds, CMSG_DATA(c), bytes);
  return (int)(bytes / sizeof(int));
}

/* "127.0.0.1", "::1", or "*" and "::" for all addresses. */
static inline socklen_t sock_address(const char *text, int port, struct sockaddr_storage *ret) {
  memset(ret, 0, sizeof *ret);
  if (strchr(text, ':') != NULL) {
    struct sockaddr_in6 *a = (struct sockaddr_in6 *)ret;
    a->sin6_family = AF_INET6;
    a->sin6_port = htons((uint16_t)port);
    REQUIRE(inet_pton(AF_INET6, text, &a->sin6_addr) == 1);
    return sizeof *a;
  }
  struct sockaddr_in *a = (struct sockaddr_in *)ret;
  a->sin_family = AF_INET;
  a->sin_port = htons((uint16_t)port);
  if (strcmp(text, "*") != 0) REQUIRE(inet_pton(AF_INET, text, &a->sin_addr) == 1);
  return sizeof *a;
}

static inline int sock_port(int fd) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  if (getsockname(fd, (struct sockaddr *)&a, &n) != 0) return -1;
  return ntohs(((struct sockaddr_in *)&a)->sin_port); /* at the same place in both families */
}

static inline int sock_peer_port(int fd) {
  struct sockaddr_storage a;
  socklen_t n = sizeof a;
  if (getpeername(fd, (struct sockaddr *)&a, &n) != 0) return -1;
  return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

static inline int sock_bound(int family, int type, const char *text, int port) {
  struct sockaddr_storage a;
  int fd = socket(family, type | SOCK_CLOEXEC, 0);
  REQUIRE(fd >= 0);
  socklen_t n = sock_address(text, port, &a);
  if (bind(fd, (struct sockaddr *)&a, n) != 0) return -1;
  return fd;
}

static inline void sock_connect(int fd, const char *text, int port) {
  struct sockaddr_storage a;
  socklen_t n = sock_address(text, port, &a);
  REQUIRE(connect(fd, (struct sockaddr *)&a, n) == 0);
}

/* A name that begins with '@' is abstract. */
static inline socklen_t sock_unix_address(const char *name, struct sockaddr_un *ret) {
  memset(ret, 0, sizeof *ret);
  ret->sun_family = AF_UNIX;
  strcpy(ret->sun_path, name);
  if (name[0] == '@') ret->sun_path[0] = '\0';
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + (name[0] != '@'));
}

static inline int sock_unix(int type, const char *name) {
  struct sockaddr_un a;
  int fd = socket(AF_UNIX, type, 0);
  REQUIRE(fd >= 0);
  if (name != NULL) {
    const socklen_t n = sock_unix_address(name, &a);
    REQUIRE(bind(fd, (struct sockaddr *)&a, n) == 0);
  }
  return fd;
}

static inline int sock_unix_connect(int fd, const char *name) {
  struct sockaddr_un a;
  const socklen_t n = sock_unix_address(name, &a);
  return connect(fd, (struct sockaddr *)&a, n);
}

static inline void sock_check_name(const char *what, int fd, const char *expected, int peer) {
  struct sockaddr_un a, want;
  socklen_t n = sizeof a;
  memset(&a, 0, sizeof a);
  const socklen_t m = expected == NULL ? 2 : sock_unix_address(expected, &want);
  CHECK_EQ(what, 0, (peer ? getpeername : getsockname)(fd, (struct sockaddr *)&a, &n));
  CHECK_EQ(what, m, n);
  if (expected != NULL) CHECK_BYTES(what, &want, &a, m);
}

#endif /* TESTS_SYSTEM_SOCK_CHECK_H */
