/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() where sockets are not as they were: a pair was closed, another one half-closed. Then it
 * is not done in place; the process begins anew, with its listening sockets as they are.
 */
#define _GNU_SOURCE
#include "rollback.h"
#include "sock_check.h"

enum { kRounds = 4 };

int main(void) {
  int closed[2], half[2];
  rollback_begin();
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, closed) == 0);
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, half) == 0);
  REQUIRE(send(closed[0], "kept", 4, 0) == 4);
  const int listener = sock_bound(AF_INET, SOCK_STREAM, "127.0.0.1", 0);
  const int path = sock_unix(SOCK_STREAM, "listens");
  REQUIRE(listen(listener, 5) == 0 && listen(path, 5) == 0);
  const int port = sock_port(listener);

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    struct crstatus st;
    memset(&st, 0, sizeof st);
    st.size = sizeof st;
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    REQUIRE(crstatus(&st) == 0);
    CHECK_EQ("in place", 0, st.rollbacks_in_place);
  }
  sock_check_recv("in the pair that was closed", closed[1], "kept");
  CHECK_EQ("through the one that was shut", 3, send(half[0], "yes", 3, MSG_NOSIGNAL));
  sock_check_recv("what comes", half[1], "yes");
  const int client = socket(AF_INET, SOCK_STREAM, 0), other = sock_unix(SOCK_STREAM, NULL);
  CHECK_EQ("port", port, sock_port(listener));
  sock_connect(client, "127.0.0.1", port);
  CHECK("accept", accept(listener, NULL, NULL) >= 0);
  CHECK_EQ("connect to the path", 0, sock_unix_connect(other, "listens"));
  CHECK("accept there", accept(path, NULL, NULL) >= 0);
  if (test_failures != 0 || round >= kRounds) test_finish();
  close(closed[0]);
  if (round % 2 == 0) close(closed[1]);
  REQUIRE(shutdown(half[0], SHUT_WR) == 0);
  rollback_now();
}
