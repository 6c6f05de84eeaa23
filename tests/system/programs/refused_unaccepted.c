/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b46\b.*was sent through a connection that was not accepted yet
 *
 * A connection at descriptor 46 to a listening socket of the program, with bytes in it that nobody
 * can read before it is accepted: the checkpoint is refused by name, and the connection works.
 */
#define _GNU_SOURCE
#include "sock_check.h"

int main(void) {
  int listener = sock_unix(SOCK_STREAM, "listens");
  REQUIRE(listen(listener, 1) == 0);
  REQUIRE(dup2(sock_unix(SOCK_STREAM, NULL), 46) == 46);
  REQUIRE(sock_unix_connect(46, "listens") == 0 && send(46, "hello", 5, 0) == 5);
  test_ready();
  test_wait();
  int accepted = accept(listener, NULL, NULL);
  CHECK("accept", accepted >= 0);
  sock_check_recv("what was sent", accepted, "hello");
  test_finish();
}
