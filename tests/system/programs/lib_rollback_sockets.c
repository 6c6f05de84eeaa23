/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and sockets: those that are as they were stay, what waits in connected ones and in
 * datagram sockets is what it was, those that were made since are closed; all of it in place.
 */
#define _GNU_SOURCE
#include "rollback.h"
#include "sock_check.h"

enum { kRounds = 9 };

static void put(int fd, const char *text) {
  REQUIRE(send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)strlen(text));
}

int main(void) {
  int stream[2], packet[2], quiet[2];
  struct sockaddr_storage a;
  char got[64];
  rollback_begin();
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packet) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM, 0, quiet) == 0);
  put(stream[0], "first");
  put(stream[1], "second");
  put(packet[0], "one packet");
  put(packet[0], "and another");
  const int listener = sock_bound(AF_INET, SOCK_STREAM, "127.0.0.1", 0);
  REQUIRE(listen(listener, 5) == 0);
  const int port = sock_port(listener);
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  sock_connect(client, "127.0.0.1", port);
  const int server = accept(listener, NULL, NULL);
  put(client, "to the server");
  const int box = sock_bound(AF_INET, SOCK_DGRAM, "127.0.0.1", 0);
  const int sender = socket(AF_INET, SOCK_DGRAM, 0);
  sock_connect(sender, "127.0.0.1", sock_port(box));
  put(sender, "datagram");
  const int named = sock_unix(SOCK_DGRAM, "box"), unnamed = sock_unix(SOCK_DGRAM, NULL);
  REQUIRE(sock_unix_connect(unnamed, "box") == 0);
  put(unnamed, "to a name");

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
  }
  sock_check_recv("stream", stream[1], "first");
  sock_check_recv("the other direction", stream[0], "second");
  sock_check_empty("no more", stream[1]);
  sock_check_recv("packet 1", packet[1], "one packet");
  sock_check_recv("packet 2", packet[1], "and another");
  sock_check_empty("no more", packet[1]);
  sock_check_empty("nothing in the quiet one", quiet[0]);
  sock_check_recv("TCP", server, "to the server");
  sock_check_empty("no more", server);
  sock_check_empty("nothing in the other direction", client);
  sock_check_recv("UDP", box, "datagram");
  sock_check_recv("at a name", named, "to a name");
  sock_check_empty("no more", box);
  CHECK_EQ("port", port, sock_port(listener));
  CHECK_EQ("made since", -1, fcntl(100, F_GETFD));
  if (test_failures != 0 || round >= kRounds) test_finish();

  if (round % 3 != 0) {
    put(stream[0], "something else");
    put(packet[1], "the other way");
    put(client, "more");
    put(server, "and back");
  }
  if (round % 3 == 1) {
    put(quiet[1], "no longer quiet");
    put(sender, "another datagram");
    put(unnamed, "to a name again");
    const int other = socket(AF_INET, SOCK_STREAM, 0);
    const socklen_t n = sock_address("127.0.0.1", port, &a);
    REQUIRE(connect(other, (struct sockaddr *)&a, n) == 0);
    REQUIRE(dup2(accept(listener, NULL, NULL), 100) == 100);
    REQUIRE(recv(server, got, sizeof got, 0) == 4);
  }
  rollback_now();
}
