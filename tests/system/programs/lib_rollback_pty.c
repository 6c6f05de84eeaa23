/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() with pseudoterminals inside: modes, window, locks and what was not read are put back in
 * place as long as both ends are open; if one was closed the program begins anew, and has them
 * again.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "rollback.h"

enum { kRounds = 10 };

static int master, slave, silent;
static struct termios modes;
static const struct winsize kSize = {11, 22, 33, 44};

static void text(int fd, const char *bytes) {
  REQUIRE(write(fd, bytes, strlen(bytes)) == (ssize_t)strlen(bytes));
}

static int take(int fd, char *got, size_t capacity) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  ssize_t n = poll(&p, 1, 2000) > 0 ? read(fd, got, capacity - 1) : 0;
  got[n > 0 ? n : 0] = 0;
  return (int)n;
}

/* Looks at what does not change by looking, and at the content of what does in odd rounds only: it
 * must come back whether or not it was read. */
static void check(uint64_t round) {
  struct termios now;
  struct winsize size;
  char got[64];
  int lock = 0, packet = 0;
  memset(&now, 0, sizeof now);
  CHECK_EQ("tcgetattr", 0, tcgetattr(slave, &now));
  CHECK_BYTES("modes", &modes, &now, sizeof now);
  CHECK("the window", ioctl(slave, TIOCGWINSZ, &size) == 0 && size.ws_row == 11);
  CHECK_EQ("TIOCGPTLCK", 0, ioctl(silent, TIOCGPTLCK, &lock));
  CHECK_EQ("the lock", 1, lock);
  CHECK_EQ("TIOCGPKT", 0, ioctl(master, TIOCGPKT, &packet));
  CHECK_EQ("packets", 0, packet);
  if (round % 2 == 0) return;
  take(master, got, sizeof got);
  CHECK_STR("for the master", "said", got);
  take(slave, got, sizeof got);
  CHECK_STR("a line", "one\n", got);
  text(master, "lf\n");
  take(slave, got, sizeof got);
  CHECK_STR("that was edited", "half\n", got);
}

static void check_reason(uint64_t round, const char *expected) {
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  REQUIRE(crstatus(&st) == 0);
  const size_t length = expected[0] == 0 ? 1 : strlen(expected);
  CHECK("the reason", strncmp(st.rollback_reason, expected, length) == 0);
  if (test_failures != 0)
    dprintf(STDOUT_FILENO, "round %d: it is: %s\n", (int)round, st.rollback_reason);
}

/* Returns why the next restore() will not be in place. */
static const char *disturb(uint64_t round) {
  const struct winsize other = {1, 2, 3, 4};
  const int on = 1, off = 0;
  struct termios raw = modes;
  cfmakeraw(&raw);
  REQUIRE(ioctl(master, TIOCSWINSZ, &other) == 0 && ioctl(master, TIOCPKT, &on) == 0);
  REQUIRE(ioctl(silent, TIOCSPTLCK, &off) == 0);
  text(slave, "more");
  text(master, "two\nthree");
  REQUIRE(tcsetattr(slave, TCSANOW, &raw) == 0);
  if (round % 5 == 2) REQUIRE(tcflush(slave, TCIOFLUSH) == 0);
  if (round % 5 == 3) REQUIRE(tcflow(slave, TCOOFF) == 0);
  if (round % 5 != 4) return "";
  close(slave);
  return "/dev/pts/";
}

int main(void) {
  char name[32];
  rollback_begin();
  REQUIRE((silent = posix_openpt(O_RDWR | O_NOCTTY)) >= 0);
  REQUIRE((master = posix_openpt(O_RDWR | O_NOCTTY)) >= 0 && unlockpt(master) == 0);
  REQUIRE(ptsname_r(master, name, sizeof name) == 0);
  REQUIRE((slave = open(name, O_RDWR | O_NOCTTY)) >= 0 && tcgetattr(slave, &modes) == 0);
  modes.c_lflag &= ~(tcflag_t)ECHO;
  modes.c_cc[VTIME] = 5;
  REQUIRE(tcsetattr(slave, TCSANOW, &modes) == 0 && ioctl(slave, TIOCSWINSZ, &kSize) == 0);
  text(slave, "said");
  text(master, "one\nha");
  usleep(20000);
  static char reason[128]; /* of the checkpoint: the one of the last round is in a file */
  while (checkpoint() == CR_RESTORED) {
  }
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    test_read_file("reason", reason, sizeof reason);
    check_reason(round, reason);
  }
  check(round);
  if (round == kRounds || test_failures != 0) test_finish();
  const char *next = disturb(round);
  const int fd = rollback_open("reason", O_CREAT | O_TRUNC | O_WRONLY);
  REQUIRE(write(fd, next, strlen(next)) == (ssize_t)strlen(next));
  close(fd);
  rollback_now();
}
