/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:eventpoll.*a file whose descriptor 46 was closed.* still open as fd 47
 *
 * A set with an entry whose descriptor was closed, while its open file lives on by another number:
 * the checkpoint is refused, and the set goes on to report it.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "three_phase.h"

int main(void) {
  const int set = epoll_create1(0);
  REQUIRE(dup2(eventfd(0, 0), 46) == 46 && dup2(46, 47) == 47);
  struct epoll_event e = {.events = EPOLLIN, .data.u32 = 9};
  REQUIRE(epoll_ctl(set, EPOLL_CTL_ADD, 46, &e) == 0);
  for (int fd = 3; fd <= 46; fd++)
    if (fd != set) close(fd);
  REQUIRE(open("/dev/null", O_RDONLY) != 46 && dup2(set, 46) == 46);
  test_ready();
  test_wait();
  const uint64_t one = 1;
  CHECK_EQ("write", 8, write(47, &one, 8));
  CHECK_EQ("an event", 1, epoll_wait(set, &e, 1, 0));
  CHECK_EQ("its data", 9, e.data.u32);
  test_finish();
}
