/* SPDX-License-Identifier: MIT */
/* crtest: peer=yes mode=refuse:has the pseudoterminal /dev/pts/[0-9]+ open too
 *
 * A pseudoterminal of the program's whose slave a process outside has open as well.
 */
#define _GNU_SOURCE
#include "three_phase.h"

static int be_peer(void) {
  char name[64] = "";
  alarm(300);
  close(open("peer", O_CREAT | O_WRONLY, 0600));
  while (access("slave", F_OK) != 0) usleep(1000);
  REQUIRE(test_read_file("slave", name, sizeof name) > 0);
  int slave = open(name, O_RDWR | O_NOCTTY);
  REQUIRE(slave >= 0);
  close(open("opened", O_CREAT | O_WRONLY, 0600));
  while (access(test_file("CRTEST_GO", "go"), F_OK) != 0) usleep(10000);
  return 0;
}

int main(int argc, char **argv) {
  (void)argv;
  if (argc > 1) return be_peer();
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  char name[64];
  REQUIRE(master >= 0 && unlockpt(master) == 0 && ptsname_r(master, name, sizeof name) == 0);
  int fd = open("slave.new", O_CREAT | O_WRONLY, 0600);
  REQUIRE(fd >= 0 && write(fd, name, strlen(name)) > 0);
  close(fd);
  REQUIRE(rename("slave.new", "slave") == 0);
  while (access("opened", F_OK) != 0) usleep(1000);
  test_ready();
  test_wait();
  CHECK("the master", ptsname_r(master, name, sizeof name) == 0);
  test_finish();
}
