/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Inotify instances: watches of a directory, of files in it and of a symbolic link itself, with
 * numbers that have gaps; masks; nothing is reported of what was done before and while restoring.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "three_phase.h"

static int set, idle, dir_watch, file_watch, link_watch, once_watch;
static char events[64 * (sizeof(struct inotify_event) + NAME_MAX + 1)];

static void make(const char *name) {
  int fd = open(name, O_CREAT | O_WRONLY, 0644);
  REQUIRE(fd >= 0);
  close(fd);
}

/* The next event of the watch with a bit of `mask`; all that are read are looked at. */
static const struct inotify_event *event_of(int wd, uint32_t mask, const char **name) {
  const ssize_t n = read(set, events, sizeof events);
  for (ssize_t at = 0; at < n;) {
    const struct inotify_event *e = (const struct inotify_event *)(events + at);
    if (e->wd == wd && (e->mask & mask) != 0) {
      *name = e->len > 0 ? e->name : "";
      return e;
    }
    at += (ssize_t)(sizeof *e + e->len);
  }
  return NULL;
}

static void build(void) {
  REQUIRE(mkdir("watched", 0755) == 0 && mkdir("watched/inside", 0755) == 0);
  make("watched/file");
  make("watched/once");
  REQUIRE(symlink("file", "watched/link") == 0);
  set = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  idle = inotify_init();
  REQUIRE(set >= 0 && idle >= 0);
  for (int i = 0; i < 6; i++) {
    const int gone = inotify_add_watch(set, "watched/inside", IN_CREATE);
    REQUIRE(gone == i + 1 && inotify_rm_watch(set, gone) == 0);
  }
  dir_watch = inotify_add_watch(set, "watched", IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
  REQUIRE(inotify_rm_watch(set, inotify_add_watch(set, "watched/inside", IN_OPEN)) == 0);
  file_watch = inotify_add_watch(set, "watched/file", IN_MODIFY | IN_EXCL_UNLINK);
  link_watch = inotify_add_watch(set, "watched/link", IN_ATTRIB | IN_DONT_FOLLOW);
  once_watch = inotify_add_watch(set, "watched/once", IN_ATTRIB | IN_ONESHOT);
  REQUIRE(dir_watch == 7 && file_watch == 9 && link_watch == 10 && once_watch == 11);
  while (read(set, events, sizeof events) > 0) {
  }
}

int main(void) {
  build();
  test_ready();
  test_wait();
  const char *name = "";
  CHECK_EQ("nothing to read", -1, read(set, events, sizeof events));
  CHECK_EQ("its errno", EAGAIN, errno);
  CHECK_EQ("close-on-exec", FD_CLOEXEC, fcntl(set, F_GETFD));
  CHECK_EQ("flags of the idle one", 0, fcntl(idle, F_GETFL) & O_NONBLOCK);
  make("watched/new");
  CHECK("a new file is reported", event_of(dir_watch, IN_CREATE, &name) != NULL);
  CHECK_STR("its name", "new", name);
  int fd = open("watched/file", O_WRONLY);
  CHECK_EQ("write", 1, write(fd, "x", 1));
  close(fd);
  CHECK("a changed file is reported", event_of(file_watch, IN_MODIFY, &name) != NULL);
  CHECK_EQ("nothing else is", -1, read(set, events, sizeof events));
  CHECK_EQ("chmod", 0, chmod("watched/file", 0600));
  CHECK_EQ("what was not asked for is not", -1, read(set, events, sizeof events));
  struct timespec now[2] = {{1, 0}, {1, 0}};
  CHECK_EQ("utimensat", 0, utimensat(AT_FDCWD, "watched/link", now, AT_SYMLINK_NOFOLLOW));
  CHECK("the link is watched itself", event_of(link_watch, IN_ATTRIB, &name) != NULL);
  CHECK_EQ("chmod", 0, chmod("watched/once", 0600));
  CHECK("reported once", event_of(once_watch, IN_ATTRIB, &name) != NULL);
  CHECK_EQ("its watch is gone", -1, inotify_rm_watch(set, once_watch));
  CHECK_EQ("the same file is the same watch", file_watch,
           inotify_add_watch(set, "watched/file", IN_OPEN));
  test_finish();
}
