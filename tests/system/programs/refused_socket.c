/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*socket
 *
 * A connected socket pair at descriptors 45 and 46: the checkpoint is refused by name, and the
 * pair goes on to work.
 */
#define _GNU_SOURCE
#include <sys/socket.h>

#include "three_phase.h"

int main(void) {
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  REQUIRE(dup2(pair[0], 45) == 45 && dup2(pair[1], 46) == 46);
  close(pair[0]);
  close(pair[1]);
  test_ready();
  test_wait();
  char text[6] = "";
  CHECK_EQ("send", 5, write(45, "hello", 5));
  CHECK_EQ("receive", 5, read(46, text, 5));
  CHECK_STR("what was received", "hello", text);
  test_finish();
}
