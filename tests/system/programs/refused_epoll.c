/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*e(vent)?poll
 *
 * An epoll descriptor at 45 that watches a pipe: the checkpoint is refused by name, and it goes on
 * to watch.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "three_phase.h"

int main(void) {
  int ends[2];
  int epoll_fd = epoll_create1(0);
  REQUIRE(pipe(ends) == 0 && dup2(epoll_fd, 45) == 45);
  close(epoll_fd);
  struct epoll_event event = {.events = EPOLLIN, .data = {.u32 = 99}};
  REQUIRE(epoll_ctl(45, EPOLL_CTL_ADD, ends[0], &event) == 0);
  test_ready();
  test_wait();
  struct epoll_event got;
  CHECK_EQ("epoll_wait before a write", 0, epoll_wait(45, &got, 1, 0));
  CHECK_EQ("write", 1, write(ends[1], "x", 1));
  CHECK_EQ("epoll_wait after it", 1, epoll_wait(45, &got, 1, 1000));
  CHECK_EQ("data of the event", 99, got.data.u32);
  test_finish();
}
