/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * UNIX sockets with names: listening at a path, at a relative path, at an abstract name and at a
 * path that has been removed; connections through them, accepted and not accepted yet, in their
 * order; connections whose listener is closed; datagram sockets, bound, connected, with messages
 * that say who sent them.
 */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "sock_check.h"

enum { kBacklog = 5 };

static char path[200], removed[200], mailbox[200], closed[200], abstract[64];
static int listening, relative, nameless, hidden, client, accepted, closed_client, closed_accepted;
static int waiting[3], hidden_client, box, sender, stranger, bound_only;

static int listen_at(const char *name) {
  int fd = sock_unix(SOCK_STREAM, name);
  REQUIRE(listen(fd, kBacklog) == 0);
  return fd;
}

static int connect_named(const char *own, const char *name) {
  int fd = sock_unix(SOCK_STREAM, own);
  REQUIRE(sock_unix_connect(fd, name) == 0);
  return fd;
}

static void build_streams(void) {
  char own[80];
  listening = listen_at(path);
  REQUIRE(chmod(path, 0751) == 0);
  client = connect_named(NULL, path);
  accepted = accept(listening, NULL, NULL);
  REQUIRE(accepted >= 0 && write(client, "to the server", 13) == 13);
  REQUIRE(write(accepted, "to the client", 13) == 13);
  for (int i = 0; i < 3; i++) {
    snprintf(own, sizeof own, "@crtest-%d-waits-%d", (int)getpid(), i);
    waiting[i] = connect_named(own, path);
  }
  relative = listen_at("relative");
  nameless = listen_at(abstract);
  hidden = listen_at(removed);
  hidden_client = connect_named(NULL, removed);
  REQUIRE(unlink(removed) == 0);
  int once = listen_at(closed);
  closed_client = connect_named(NULL, closed);
  closed_accepted = accept(once, NULL, NULL);
  close(once);
  bound_only = sock_unix(SOCK_SEQPACKET, "bound-only");
}

static void build_datagrams(void) {
  box = sock_unix(SOCK_DGRAM, mailbox);
  sender = sock_unix(SOCK_DGRAM, "sender");
  stranger = sock_unix(SOCK_DGRAM, NULL);
  REQUIRE(sock_unix_connect(sender, mailbox) == 0 && sock_unix_connect(stranger, mailbox) == 0);
  REQUIRE(write(sender, "named", 5) == 5 && write(stranger, "nameless", 8) == 8);
  REQUIRE(write(sender, "again", 5) == 5);
}

static void check_file(const char *what, const char *name, int there, unsigned mode) {
  struct stat st;
  CHECK_EQ(what, there ? 0 : -1, lstat(name, &st));
  if (there) CHECK(what, S_ISSOCK(st.st_mode));
  if (mode != 0) CHECK_EQ(what, mode, st.st_mode & 07777);
}

static void check_accept(const char *what, int listener, int from, const char *name) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
  CHECK(what, fd >= 0);
  CHECK_EQ(what, 2, write(from, "hi", 2));
  sock_check_recv(what, fd, "hi");
  sock_check_name(what, fd, name, 1);
  close(fd);
}

static void check_fresh(const char *what, int listener, const char *name) {
  int fd = sock_unix(SOCK_STREAM, NULL);
  struct ucred who;
  socklen_t n = sizeof who;
  CHECK_EQ(what, 0, sock_unix_connect(fd, name));
  CHECK_EQ(what, 0, getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n));
  CHECK_EQ("who listens", getpid(), who.pid);
  check_accept(what, listener, fd, NULL);
  close(fd);
}

static void check_streams(void) {
  char own[80];
  sock_check_name("name of the listening one", listening, path, 0);
  check_file("its file", path, 1, 0751);
  sock_check_recv("the server's", accepted, "to the server");
  sock_check_recv("the client's", client, "to the client");
  sock_check_name("the server's name", accepted, path, 0);
  sock_check_name("the client's name", client, NULL, 0);
  sock_check_name("the client's peer", client, path, 1);
  for (int i = 0; i < 3; i++) {
    snprintf(own, sizeof own, "@crtest-%d-waits-%d", (int)getpid(), i);
    check_accept("one that waited", listening, waiting[i], own);
  }
  check_fresh("a new one", listening, path);
  check_fresh("at the relative name", relative, "relative");
  check_file("the relative name", "relative", 1, 0);
  check_fresh("at the abstract name", nameless, abstract);
  check_file("the removed one", removed, 0, 0);
  sock_check_name("its name", hidden, removed, 0);
  check_accept("one that waits there", hidden, hidden_client, NULL);
  CHECK_EQ("O_NONBLOCK", 0, fcntl(listening, F_GETFL) & O_NONBLOCK);
  sock_check_name("accepted where nobody listens now", closed_accepted, closed, 0);
  sock_check_name("its client", closed_client, closed, 1);
  CHECK_EQ("through it", 3, write(closed_client, "yes", 3));
  sock_check_recv("what came", closed_accepted, "yes");
  CHECK_EQ("nobody listens there", -1, sock_unix_connect(bound_only, closed));
  CHECK_EQ("listen at last", 0, listen(bound_only, 1));
  int late = sock_unix(SOCK_SEQPACKET, NULL);
  CHECK_EQ("connect to it", 0, sock_unix_connect(late, "bound-only"));
  for (int i = 0; i <= kBacklog; i++) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK_EQ("as many as the backlog", 0, sock_unix_connect(fd, abstract));
  }
  int one_more = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  CHECK_EQ("one too many", -1, sock_unix_connect(one_more, abstract));
  CHECK_EQ("its errno", EAGAIN, errno);
}

static void check_from(const char *what, const char *text, const char *name) {
  char got[64] = "";
  struct sockaddr_un from, want;
  socklen_t n = sizeof from;
  CHECK_EQ(what, strlen(text),
           recvfrom(box, got, sizeof got, MSG_DONTWAIT, (struct sockaddr *)&from, &n));
  CHECK_STR(what, text, got);
  const socklen_t m = name == NULL ? 0 : sock_unix_address(name, &want);
  CHECK_EQ(what, m, n);
  if (name != NULL) CHECK_BYTES(what, &want, &from, m);
}

static void check_datagrams(void) {
  check_from("datagram 1", "named", "sender");
  check_from("datagram 2", "nameless", NULL);
  check_from("datagram 3", "again", "sender");
  sock_check_empty("no more", box);
  sock_check_name("who sends", sender, "sender", 0);
  sock_check_name("to whom", sender, mailbox, 1);
  CHECK_EQ("send again", 3, write(stranger, "new", 3));
  check_from("a new one", "new", NULL);
}

int main(void) {
  char cwd[120];
  REQUIRE(getcwd(cwd, sizeof cwd - 20) != NULL && strlen(cwd) < 80);
  snprintf(path, sizeof path, "%s/listens", cwd);
  snprintf(removed, sizeof removed, "%s/removed", cwd);
  snprintf(mailbox, sizeof mailbox, "%s/mailbox", cwd);
  snprintf(closed, sizeof closed, "%s/closed", cwd);
  snprintf(abstract, sizeof abstract, "@crtest-%d-listens", (int)getpid());
  build_streams();
  build_datagrams();
  test_ready();
  test_wait();
  check_streams();
  check_datagrams();
  test_finish();
}
