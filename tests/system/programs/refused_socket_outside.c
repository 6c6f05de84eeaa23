/* SPDX-License-Identifier: MIT */
/* crtest: peer=yes mode=refuse:\b45\b.*a connection to another process cannot be saved
 *
 * A UNIX connection at descriptor 45 to a process outside, which the runner has started: the
 * checkpoint is refused by name, and the connection works.
 */
#define _GNU_SOURCE
#include "sock_check.h"

static const struct sockaddr_un kPeer = {AF_UNIX, "peer"};

static int be_peer(void) {
  struct sockaddr_un name = {AF_UNIX, "peer.new"};
  int listening = socket(AF_UNIX, SOCK_STREAM, 0);
  REQUIRE(bind(listening, (struct sockaddr *)&name, sizeof name) == 0);
  REQUIRE(listen(listening, 1) == 0 && rename("peer.new", "peer") == 0);
  alarm(300);
  const int fd = accept(listening, NULL, NULL);
  char byte;
  while (recv(fd, &byte, 1, 0) == 1) send(fd, &byte, 1, MSG_NOSIGNAL);
  return 0;
}

int main(int argc, char **argv) {
  (void)argv;
  if (argc > 1) return be_peer();
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  REQUIRE(connect(fd, (const struct sockaddr *)&kPeer, sizeof kPeer) == 0 && dup2(fd, 45) == 45);
  close(fd);
  test_ready();
  test_wait();
  CHECK_EQ("send", 1, send(45, "x", 1, MSG_NOSIGNAL));
  sock_check_recv("its echo", 45, "x");
  close(45);
  usleep(100000);
  test_finish();
}
