/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:sent and not received yet .*eventfd.* cannot be saved
 *
 * An eventfd that waits in a socket and is open nowhere else, so that nobody could give it its
 * count again: the checkpoint is refused by name, and the eventfd is received.
 */
#define _GNU_SOURCE
#include <sys/eventfd.h>

#include "sock_check.h"

int main(void) {
  int pair[2], fds[4];
  char text[8];
  uint64_t count = 0;
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  const int event = eventfd(7, 0);
  sock_send_fds(pair[0], "x", &event, 1);
  close(event);
  test_ready();
  test_wait();
  CHECK_EQ("descriptors received", 1, sock_recv_fds(pair[1], 4, text, fds));
  CHECK_EQ("read", sizeof count, read(fds[0], &count, sizeof count));
  CHECK_EQ("its count", 7, count);
  test_finish();
}
