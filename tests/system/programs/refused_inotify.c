/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*inotify
 *
 * An inotify descriptor at 45: the checkpoint is refused by name, and events still arrive.
 */
#define _GNU_SOURCE
#include <sys/inotify.h>
#include <sys/stat.h>

#include "three_phase.h"

int main(void) {
  REQUIRE(mkdir("watched", 0755) == 0 || errno == EEXIST);
  REQUIRE(dup2(inotify_init1(IN_NONBLOCK), 45) == 45);
  REQUIRE(inotify_add_watch(45, "watched", IN_CREATE) >= 0);
  test_ready();
  test_wait();
  char events[4096];
  CHECK_EQ("read before an event", -1, read(45, events, sizeof events));
  close(open("watched/file", O_CREAT | O_WRONLY, 0644));
  CHECK("read after it", read(45, events, sizeof events) > 0);
  test_finish();
}
