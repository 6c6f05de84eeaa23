/* SPDX-License-Identifier: MIT */
/* crtest: matrix_skips=incremental mode=cycles
 *
 * Connected UNIX sockets whose ends are both in this process: bytes and messages waiting in both
 * directions, partly read ones, empty messages, half-closed ends, a peer that was closed with and
 * without unread bytes, options, and descriptors in flight, of which some are open nowhere else.
 * (The kernel shows an empty datagram behind others only once: a second checkpoint is refused.)
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "sock_check.h"

enum { kMuch = 100000 };

static int stream[2], datagram[2], packet[2], half[2], gone, failed, lost, gone_datagram, twin;
static int flight[2], nested[2], told[2], told_name;
static char much[kMuch];
static ino_t file_inode;

static void pair(int type, int *ends) { REQUIRE(socketpair(AF_UNIX, type, 0, ends) == 0); }
static void put(int fd, const void *data, size_t size) {
  REQUIRE(send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size);
}

static void build_queues(void) {
  char byte;
  pair(SOCK_STREAM, stream);
  test_fill(much, sizeof much, 7);
  put(stream[0], much, sizeof much);
  put(stream[1], "back", 4);
  for (int i = 0; i < 1000; i++) REQUIRE(read(stream[1], &byte, 1) == 1); /* a partial read */
  pair(SOCK_DGRAM, datagram);
  put(datagram[0], "one", 3);
  put(datagram[0], "", 0);
  put(datagram[0], "three", 5);
  put(datagram[1], "", 0);
  pair(SOCK_SEQPACKET, packet);
  put(packet[0], "first packet", 12);
  put(packet[0], "second", 6);
  put(packet[1], "answer", 6);
}

static void build_ends(void) {
  int ends[2];
  pair(SOCK_STREAM, half);
  put(half[0], "last words", 10);
  put(half[1], "still heard", 11);
  REQUIRE(shutdown(half[0], SHUT_WR) == 0);
  pair(SOCK_STREAM, ends);
  put(ends[1], "unread", 6);
  close(ends[1]);
  gone = ends[0];
  pair(SOCK_STREAM, ends);
  put(ends[0], "never read", 10);
  close(ends[1]);
  failed = ends[0];
  pair(SOCK_SEQPACKET, ends);
  put(ends[1], "packet", 6);
  close(ends[1]);
  lost = ends[0];
  pair(SOCK_DGRAM, ends);
  put(ends[1], "datagram", 8);
  close(ends[1]);
  gone_datagram = ends[0];
}

static void build_flight(void) {
  int inner[2], pipe_ends[2];
  pair(SOCK_STREAM, flight);
  put(flight[0], "plain", 5);
  int file = open("in flight", O_RDWR | O_CREAT | O_TRUNC, 0600);
  struct stat st;
  REQUIRE(file >= 0 && write(file, "0123456789", 10) == 10 && lseek(file, 4, SEEK_SET) == 4);
  REQUIRE(fstat(file, &st) == 0);
  file_inode = st.st_ino;
  pair(SOCK_SEQPACKET, inner);
  put(inner[0], "inside", 6);
  REQUIRE(pipe(pipe_ends) == 0 && write(pipe_ends[1], "piped", 5) == 5);
  sock_send_fds(flight[0], "fds", (int[]){file, inner[1], pipe_ends[0]}, 3);
  put(flight[0], "after", 5);
  close(file);
  close(inner[1]);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  twin = inner[0];
  /* A socket that waits in a socket that waits. */
  pair(SOCK_DGRAM, nested);
  pair(SOCK_DGRAM, inner);
  sock_send_fds(inner[0], "deep", (int[]){stream[0]}, 1);
  sock_send_fds(nested[0], "", (int[]){inner[1]}, 1);
  close(inner[0]);
  close(inner[1]);
}

static void build_options(void) {
  sock_set(packet[0], SOL_SOCKET, SO_SNDBUF, 50000);
  sock_set(packet[0], SOL_SOCKET, SO_RCVBUF, 60000);
  sock_set(packet[1], SOL_SOCKET, SO_PASSCRED, 1);
  sock_set(stream[1], SOL_SOCKET, SO_PEEK_OFF, 3);
  sock_set(stream[0], SOL_SOCKET, SO_RCVLOWAT, 2);
  const struct timeval timeout = {3, 250000};
  REQUIRE(setsockopt(datagram[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0);
  REQUIRE(fcntl(datagram[0], F_SETFL, O_NONBLOCK) == 0);
}

/* Messages that say who sent them. */
static void build_credentials(void) {
  pair(SOCK_STREAM, told);
  told_name = sock_unix(SOCK_DGRAM, "told");
  int sender = sock_unix(SOCK_DGRAM, "teller");
  sock_set(told[1], SOL_SOCKET, SO_PASSCRED, 1);
  sock_set(told_name, SOL_SOCKET, SO_PASSCRED, 1);
  REQUIRE(sock_unix_connect(sender, "told") == 0);
  put(told[0], "by me", 5);
  put(sender, "and this", 8);
  put(sender, "", 0);
}

static void check_sender(const char *what, int fd, const char *expected) {
  char got[64] = "", control[CMSG_SPACE(sizeof(struct ucred)) + 64];
  struct iovec part = {got, sizeof got - 1};
  struct msghdr h = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct ucred who = {0, 0, 0};
  CHECK_EQ(what, strlen(expected), recvmsg(fd, &h, MSG_DONTWAIT));
  CHECK_STR(what, expected, got);
  struct cmsghdr *c = CMSG_FIRSTHDR(&h);
  CHECK(what, c != NULL && c->cmsg_type == SCM_CREDENTIALS);
  if (c != NULL) memcpy(&who, CMSG_DATA(c), sizeof who);
  CHECK_EQ(what, getpid(), who.pid);
  CHECK_EQ(what, getuid(), who.uid);
}

static void check_credentials(void) {
  check_sender("who sent bytes", told[1], "by me");
  check_sender("who sent a datagram", told_name, "and this");
  check_sender("who sent an empty one", told_name, "");
  sock_check_name("no name was made up", told[1], NULL, 0);
  sock_check_name("nor here", packet[1], NULL, 0);
}

static void check_queues(void) {
  static char got[kMuch + 10];
  CHECK_EQ("bytes that can be read", kMuch - 1000, sock_waiting(stream[1]));
  CHECK_EQ("peek at the offset", 5, recv(stream[1], got, 5, MSG_PEEK | MSG_DONTWAIT));
  CHECK_BYTES("what lies there", much + 1003, got, 5);
  CHECK_EQ("the stream", kMuch - 1000, recv(stream[1], got, sizeof got, MSG_DONTWAIT));
  CHECK_BYTES("its bytes", much + 1000, got, kMuch - 1000);
  sock_check_recv("the other direction", stream[0], "back");
  sock_check_recv("datagram 1", datagram[1], "one");
  sock_check_recv("datagram 2", datagram[1], "");
  sock_check_recv("datagram 3", datagram[1], "three");
  sock_check_empty("no more datagrams", datagram[1]);
  sock_check_recv("an empty datagram", datagram[0], "");
  sock_check_empty("and none behind it", datagram[0]);
  sock_check_recv("packet 1", packet[1], "first packet");
  sock_check_recv("packet 2", packet[1], "second");
  sock_check_recv("its answer", packet[0], "answer");
  sock_check_empty("no more packets", packet[1]);
  put(packet[0], "new", 3);
  sock_check_recv("a new packet", packet[1], "new");
}

static void check_ends(void) {
  char got[32];
  sock_check_recv("in front of the end", half[1], "last words");
  CHECK_EQ("the end", 0, recv(half[1], got, sizeof got, MSG_DONTWAIT));
  sock_check_recv("what came the other way", half[0], "still heard");
  put(half[1], "more", 4);
  sock_check_recv("and comes", half[0], "more");
  CHECK_EQ("send through the end that was shut", -1, send(half[0], "x", 1, MSG_NOSIGNAL));
  CHECK_EQ("its errno", EPIPE, errno);
  sock_check_recv("left by a closed peer", gone, "unread");
  CHECK_EQ("then the end", 0, recv(gone, got, sizeof got, MSG_DONTWAIT));
  CHECK_EQ("send to a closed peer", -1, send(gone, "x", 1, MSG_NOSIGNAL));
  CHECK_EQ("its errno", EPIPE, errno);
  CHECK_EQ("a peer that closed with unread bytes", -1, recv(failed, got, sizeof got, MSG_DONTWAIT));
  CHECK_EQ("its errno", ECONNRESET, errno);
  CHECK_EQ("after that the end", 0, recv(failed, got, sizeof got, MSG_DONTWAIT));
  sock_check_recv("a packet left by a closed peer", lost, "packet");
  CHECK_EQ("then the end", 0, recv(lost, got, sizeof got, MSG_DONTWAIT));
  sock_check_recv("a datagram left by a closed peer", gone_datagram, "datagram");
  CHECK_EQ("send to it", -1, send(gone_datagram, "x", 1, MSG_NOSIGNAL));
  CHECK_EQ("its errno", ECONNREFUSED, errno);
}

static void check_flight(void) {
  char got[16] = "";
  int fds[4];
  struct stat st;
  CHECK_EQ("bytes in front of the descriptors", 0, sock_recv_fds(flight[1], 5, got, fds));
  CHECK_STR("what they are", "plain", got);
  CHECK_EQ("descriptors received", 3, sock_recv_fds(flight[1], 3, got, fds));
  CHECK_STR("bytes that they came with", "fds", got);
  sock_check_recv("bytes behind them", flight[1], "after");
  CHECK("the file", fstat(fds[0], &st) == 0 && st.st_ino == file_inode);
  CHECK_EQ("its offset", 4, lseek(fds[0], 0, SEEK_CUR));
  sock_check_recv("in the socket", fds[1], "inside");
  put(twin, "to and fro", 10);
  sock_check_recv("through the socket", fds[1], "to and fro");
  CHECK_EQ("in the pipe", 5, read(fds[2], got, sizeof got));
  CHECK_BYTES("what", "piped", got, 5);
  CHECK_EQ("the end of the pipe", 0, read(fds[2], got, sizeof got));
  CHECK_EQ("a socket in flight", 1, sock_recv_fds(nested[1], sizeof got - 1, got, fds));
  int inner = fds[0];
  CHECK_EQ("in it another", 1, sock_recv_fds(inner, sizeof got - 1, got, fds));
  CHECK_STR("the message", "deep", got);
  REQUIRE(fstat(stream[0], &st) == 0);
  const ino_t inode = st.st_ino;
  CHECK("the same socket", fstat(fds[0], &st) == 0 && st.st_ino == inode);
}

static void check_options(void) {
  struct timeval timeout = {0, 0};
  socklen_t size = sizeof timeout;
  CHECK_EQ("SO_SNDBUF", 100000, sock_get(packet[0], SOL_SOCKET, SO_SNDBUF));
  CHECK_EQ("SO_RCVBUF", 120000, sock_get(packet[0], SOL_SOCKET, SO_RCVBUF));
  CHECK_EQ("SO_PASSCRED", 1, sock_get(packet[1], SOL_SOCKET, SO_PASSCRED));
  CHECK_EQ("SO_PASSCRED of its peer", 0, sock_get(packet[0], SOL_SOCKET, SO_PASSCRED));
  CHECK_EQ("SO_PEEK_OFF", 3, sock_get(stream[1], SOL_SOCKET, SO_PEEK_OFF));
  CHECK_EQ("SO_PEEK_OFF of a packet's", -1, sock_get(packet[1], SOL_SOCKET, SO_PEEK_OFF));
  CHECK_EQ("SO_RCVLOWAT", 2, sock_get(stream[0], SOL_SOCKET, SO_RCVLOWAT));
  CHECK_EQ("SO_RCVTIMEO", 0, getsockopt(datagram[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, &size));
  CHECK_EQ("its seconds", 3, timeout.tv_sec);
  CHECK_EQ("O_NONBLOCK", O_NONBLOCK, fcntl(datagram[0], F_GETFL) & O_NONBLOCK);
  CHECK_EQ("O_NONBLOCK of its peer", 0, fcntl(datagram[1], F_GETFL) & O_NONBLOCK);
}

int main(void) {
  build_queues();
  build_ends();
  build_flight();
  build_options();
  build_credentials();
  test_ready();
  test_wait();
  check_options();
  check_credentials();
  check_queues();
  check_ends();
  check_flight();
  test_finish();
}
