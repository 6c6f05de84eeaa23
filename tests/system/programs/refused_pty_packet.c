/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:a status that packet mode reports was not read yet
 *
 * Packet mode reports a flush once; nobody can put that back.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>
#include <termios.h>

#include "three_phase.h"

int main(void) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY), on = 1;
  REQUIRE(master >= 0 && unlockpt(master) == 0 && ioctl(master, TIOCPKT, &on) == 0);
  const int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  REQUIRE(slave >= 0 && tcflush(slave, TCIFLUSH) == 0);
  test_ready();
  test_wait();
  char got = 0;
  CHECK_EQ("read", 1, read(master, &got, 1));
  CHECK_EQ("the status", TIOCPKT_FLUSHREAD, got);
  test_finish();
}
