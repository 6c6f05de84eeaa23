/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() and descriptors: files that grew are cut back and offsets are as they were, flags too;
 * what was closed since is open again, what was opened since is closed, what was exchanged is what
 * it was, and numbers that shared an open file share it again. A pipe, a FIFO and a file without a
 * name hold what they held.
 */
#define _GNU_SOURCE
#include <sys/file.h>
#include <sys/stat.h>

#include "rollback.h"

enum { kRounds = 12 };

static int make(const char *name, int flags, const char *text) {
  const int fd = open(name, flags | O_CREAT | O_TRUNC, 0600);
  REQUIRE(fd >= 0);
  REQUIRE(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  return fd;
}
static off_t at(int fd) { return lseek(fd, 0, SEEK_CUR); }
static off_t size(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 ? st.st_size : -1;
}

int main(void) {
  rollback_begin();
  const int grown = make("grown", O_RDWR, "0123456789");
  const int appended = make("appended", O_WRONLY | O_APPEND, "abc");
  const int closed = make("closed", O_RDWR, "closed since");
  const int shared = make("shared", O_RDWR, "two numbers");
  const int twin = dup(shared);
  const int swapped = make("swapped", O_RDWR, "exchanged since");
  const int far = fcntl(grown, F_DUPFD, 200);
  const int dir = open(".", O_RDONLY | O_DIRECTORY);
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int unnamed = make("unnamed", O_RDWR, "no name");
  REQUIRE(unlink("unnamed") == 0);
  int pipe_fds[2];
  REQUIRE(pipe(pipe_fds) == 0);
  REQUIRE(write(pipe_fds[1], "in the pipe", 11) == 11);
  REQUIRE(mkfifo("fifo", 0600) == 0);
  const int fifo_in = open("fifo", O_RDONLY | O_NONBLOCK), fifo_out = open("fifo", O_WRONLY);
  REQUIRE(fifo_in >= 0 && write(fifo_out, "in the FIFO", 11) == 11);
  REQUIRE(lseek(grown, 5, SEEK_SET) == 5 && lseek(swapped, 3, SEEK_SET) == 3);
  REQUIRE(lseek(closed, 2, SEEK_SET) == 2 && lseek(shared, 4, SEEK_SET) == 4);
  REQUIRE(far == 200 && dir >= 0 && null >= 0 && twin >= 0);

  const int r = checkpoint();
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    CHECK_EQ("checkpoint()", CR_RESTORED, r);
    rollback_check_in_place(round - 1);
  }
  CHECK_EQ("offset", 5, at(grown));
  CHECK_EQ("size", 10, size(grown));
  CHECK_EQ("size of the appended file", 3, size(appended));
  CHECK_EQ("its flags", O_APPEND, fcntl(appended, F_GETFL) & (O_APPEND | O_NONBLOCK));
  CHECK_EQ("offset of the closed file", 2, at(closed));
  CHECK_EQ("its size", 12, size(closed));
  CHECK_EQ("offset of the exchanged file", 3, at(swapped));
  CHECK_EQ("its size", 15, size(swapped));
  CHECK_EQ("offset of the shared file", 4, at(twin));
  CHECK_EQ("offset of the shared file", 4, at(shared));
  REQUIRE(lseek(shared, 6, SEEK_SET) == 6);
  CHECK_EQ("still shared", 6, at(twin));
  REQUIRE(lseek(far, 7, SEEK_SET) == 7);
  CHECK_EQ("shared with a high number", 7, at(grown));
  CHECK_EQ("close on exec", FD_CLOEXEC, fcntl(null, F_GETFD));
  CHECK_EQ("no close on exec", 0, fcntl(dir, F_GETFD));
  CHECK_EQ("a lock", 0, flock(swapped, LOCK_EX | LOCK_NB));
  REQUIRE(flock(swapped, LOCK_UN) == 0);
  for (int fd = 20; fd < 220; fd++) {
    if (fd != far) CHECK_EQ("opened since", -1, fcntl(fd, F_GETFD));
  }
  char text[64] = "";
  CHECK_EQ("in the unnamed file", 7, pread(unnamed, text, 60, 0));
  CHECK_STR("in the unnamed file", "no name", text);
  REQUIRE(fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK) == 0);
  memset(text, 0, sizeof text);
  CHECK_EQ("in the pipe", 11, read(pipe_fds[0], text, 60));
  CHECK_STR("in the pipe", "in the pipe", text);
  CHECK_EQ("more in the pipe", -1, read(pipe_fds[0], text, 60));
  memset(text, 0, sizeof text);
  CHECK_EQ("in the FIFO", 11, read(fifo_in, text, 60));
  CHECK_STR("in the FIFO", "in the FIFO", text);
  CHECK_EQ("more in the FIFO", -1, read(fifo_in, text, 60));
  if (test_failures != 0 || round >= kRounds) test_finish();

  REQUIRE(write(grown, "more and more and more", 22) == 22);
  REQUIRE(write(appended, "def", 3) == 3);
  REQUIRE(fcntl(appended, F_SETFL, O_NONBLOCK) == 0);
  if (round % 2 == 0) REQUIRE(write(pipe_fds[1], "something else", 14) == 14);
  if (round % 2 == 1) REQUIRE(write(fifo_out, "not that", 8) == 8);
  if (round % 3 == 0) {
    REQUIRE(pwrite(unnamed, "quite another text", 18, 0) == 18);
    REQUIRE(ftruncate(unnamed, round % 2 == 0 ? 3 : 18) == 0);
  }
  if (round % 2 == 1) {
    REQUIRE(write(closed, " and written before", 19) == 19);
    REQUIRE(close(closed) == 0 && close(dir) == 0 && close(far) == 0 && close(null) == 0);
  } else {
    REQUIRE(fcntl(null, F_SETFD, 0) == 0 && fcntl(dir, F_SETFD, FD_CLOEXEC) == 0);
  }
  if (round % 3 == 1) {
    REQUIRE(close(twin) == 0);
    REQUIRE(open("shared", O_RDWR) >= 0);
  } else if (round % 3 == 2) {
    REQUIRE(dup2(grown, swapped) == swapped && dup2(swapped, twin) == twin);
  }
  if (round % 4 == 0) REQUIRE(flock(swapped, LOCK_EX) == 0);
  for (int fd = 30; fd < 200; fd += 17) REQUIRE(dup2(grown, fd) == fd);
  REQUIRE(make("new", O_RDWR, "new since the checkpoint") >= 0);
  rollback_now();
}
