/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:inotify.*events were not read yet
 *
 * An inotify instance with an event that was not read: the checkpoint is refused, and the event
 * stays.
 */
#define _GNU_SOURCE
#include <sys/inotify.h>

#include "three_phase.h"

int main(void) {
  const int set = inotify_init1(IN_NONBLOCK);
  close(open("file", O_CREAT | O_WRONLY, 0644));
  const int watch = inotify_add_watch(set, "file", IN_OPEN);
  REQUIRE(watch > 0);
  close(open("file", O_RDONLY));
  test_ready();
  test_wait();
  struct inotify_event e;
  CHECK_EQ("the event", sizeof e, read(set, &e, sizeof e));
  CHECK_EQ("its watch", watch, e.wd);
  CHECK_EQ("its mask", IN_OPEN, e.mask);
  test_finish();
}
