/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Named FIFOs: both ends in this process, with content, an enlarged capacity and flags; one opened
 * both ways; one whose writers are gone (bytes, then end of file); one nobody has written to yet;
 * one whose readers are gone.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include "three_phase.h"

enum { kContent = 5000, kBig = 256 * 1024 };

static int in, in_again, out, both, ended, waiting, deaf;
static char content[kContent];

static int make(const char *name, int flags) {
  REQUIRE(mkfifo(name, 0600) == 0 || errno == EEXIST);
  const int fd = open(name, flags | O_NONBLOCK);
  REQUIRE(fd >= 0 && fcntl(fd, F_SETFL, flags) == 0);
  return fd;
}

static int state(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
  CHECK_BETWEEN("poll", 0, 1, poll(&p, 1, 0));
  return p.revents;
}

static void build(void) {
  signal(SIGPIPE, SIG_IGN);
  test_fill(content, sizeof content, 1);
  in = make("inside", O_RDONLY);
  in_again = make("inside", O_RDONLY | O_NONBLOCK);
  out = make("inside", O_WRONLY | O_APPEND);
  REQUIRE(fcntl(out, F_SETPIPE_SZ, kBig) == kBig && write(out, content, kContent) == kContent);
  both = make("both", O_RDWR);
  REQUIRE(write(both, "both ways", 9) == 9);
  ended = make("ended", O_RDONLY);
  const int gone = make("ended", O_WRONLY);
  REQUIRE(write(gone, "tail", 4) == 4 && close(gone) == 0);
  waiting = make("waiting", O_RDONLY | O_NONBLOCK);
  const int reader = make("deaf", O_RDONLY);
  deaf = make("deaf", O_WRONLY);
  close(reader);
}

int main(void) {
  build();
  const int at_waiting = state(waiting);
  test_ready();
  test_wait();
  static char got[kContent + 100];
  CHECK_EQ("flags of the first", O_RDONLY, fcntl(in, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
  CHECK_EQ("of the second", O_NONBLOCK, fcntl(in_again, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
  CHECK_EQ("of the writer", O_WRONLY | O_APPEND,
           fcntl(out, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_APPEND));
  CHECK_EQ("capacity", kBig, fcntl(out, F_GETPIPE_SZ));
  CHECK_EQ("some of the content", 3000, read(in_again, got, 3000));
  CHECK_EQ("the rest", kContent - 3000, read(in, got + 3000, sizeof got - 3000));
  CHECK_BYTES("content", content, got, kContent);
  CHECK_EQ("no more", -1, read(in_again, got, 1));
  CHECK_EQ("write", 3, write(out, "abc", 3));
  close(out);
  CHECK_EQ("read", 3, read(in_again, got, sizeof got));
  CHECK_EQ("end of file", 0, read(in, got, sizeof got));
  CHECK_EQ("both ways", 9, read(both, got, sizeof got));
  CHECK_BYTES("its content", "both ways", got, 9);
  CHECK_EQ("POLLHUP of the ended one", POLLIN | POLLHUP, state(ended));
  CHECK_EQ("what was left", 4, read(ended, got, sizeof got));
  CHECK_EQ("end of file", 0, read(ended, got, sizeof got));
  CHECK_EQ("the one that waits", at_waiting, state(waiting));
  CHECK_EQ("POLLERR without a reader", POLLOUT | POLLERR, state(deaf));
  CHECK_EQ("write without a reader", -1, write(deaf, "x", 1));
  CHECK_EQ("its errno", EPIPE, errno);
  const int writer = open("waiting", O_WRONLY | O_NONBLOCK);
  CHECK_EQ("a writer comes", 5, write(writer, "hello", 5));
  CHECK_EQ("and is heard", 5, read(waiting, got, sizeof got));
  struct stat st;
  CHECK_EQ("the same FIFO", 0, fstat(in, &st));
  CHECK("by its name", S_ISFIFO(st.st_mode));
  test_finish();
}
