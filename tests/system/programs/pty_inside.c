/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later
 *
 * Pseudoterminals of which the program has both ends, or had: modes, windows, numbers, packet mode,
 * locks, what was not read in both directions (lines, an end of file, a line that is being edited),
 * stopped output, ends that are closed, and one that is its controlling terminal.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>

#include "three_phase.h"

/* High numbers: whoever makes one meanwhile gets the lowest that is free. */
#ifndef LEAST_NUMBER
#define LEAST_NUMBER (getuid() == 0 ? 200 : 300)
#endif

struct pty {
  int master, slave;
  char name[32];
  struct termios modes;
};

static struct pty raw, lines, packet, closed, locked, exclusive, stopped, held, own;
static int orphan, twin, writer;
static int others[512], other_count, any_name;
static volatile sig_atomic_t interrupts;

static void count(int number) {
  (void)number;
  interrupts++;
}

static void text(int fd, const char *bytes) {
  REQUIRE(write(fd, bytes, strlen(bytes)) == (ssize_t)strlen(bytes));
}

/* Waits for it: what is written to one end comes to the other a moment later. */
static void expect(const char *what, int fd, const char *expected, size_t length) {
  char got[256] = "";
  size_t n = 0;
  struct pollfd p = {.fd = fd, .events = POLLIN};
  do {
    if (poll(&p, 1, 5000) <= 0) break;
    const ssize_t k = read(fd, got + n, sizeof got - n);
    if (k <= 0) break;
    n += (size_t)k;
  } while (n < length);
  CHECK_EQ(what, length, n);
  CHECK_BYTES(what, expected, got, length);
}
#define EXPECT(what, fd, expected) expect(what, fd, expected, sizeof(expected) - 1)

static void make(struct pty *p, int open_slave) {
  memset(p, 0, sizeof *p);
  p->slave = -1;
  for (;;) {
    REQUIRE((p->master = posix_openpt(O_RDWR | O_NOCTTY)) >= 0);
    REQUIRE(grantpt(p->master) == 0 && ptsname_r(p->master, p->name, sizeof p->name) == 0);
    if (any_name || atoi(p->name + strlen("/dev/pts/")) >= LEAST_NUMBER) break;
    others[other_count++] = p->master;
  }
  if (!open_slave) return;
  REQUIRE(unlockpt(p->master) == 0);
  REQUIRE((p->slave = open(p->name, O_RDWR | O_NOCTTY)) >= 0);
  REQUIRE(tcgetattr(p->slave, &p->modes) == 0);
  p->modes.c_lflag &= ~(tcflag_t)ECHO;
}

static void set(struct pty *p) {
  REQUIRE(tcsetattr(p->slave, TCSANOW, &p->modes) == 0);
  memset(&p->modes, 0, sizeof p->modes);
  REQUIRE(tcgetattr(p->slave, &p->modes) == 0);
}

static void check_modes(const char *what, struct pty *p) {
  struct termios now;
  char name[32] = "";
  memset(&now, 0, sizeof now);
  CHECK_EQ(what, 0, tcgetattr(p->slave >= 0 ? p->slave : p->master, &now));
  CHECK_BYTES(what, &p->modes, &now, sizeof now);
  CHECK_EQ(what, 0, ptsname_r(p->master, name, sizeof name));
  if (any_name) memcpy(p->name, name, sizeof name);
  CHECK_STR(what, p->name, name);
  if (p->slave >= 0) CHECK_STR(what, p->name, ttyname(p->slave));
}

static int is_writable(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLOUT};
  return poll(&p, 1, 0) > 0 && (p.revents & POLLOUT) != 0;
}

static void wait_until_stopped(int fd) {
  for (int i = 0; i < 5000 && is_writable(fd); i++) usleep(1000);
  REQUIRE(!is_writable(fd));
}

static void wait_for_bytes(int fd, int bytes) {
  int n = 0;
  for (int i = 0; i < 5000 && n < bytes; i++) {
    REQUIRE(ioctl(fd, FIONREAD, &n) == 0);
    usleep(1000);
  }
  REQUIRE(n == bytes);
}

static void set_up_queues(void) {
  const struct winsize size = {33, 77, 330, 770};
  make(&raw, 1);
  cfmakeraw(&raw.modes);
  raw.modes.c_cc[VMIN] = 3;
  raw.modes.c_cc[VTIME] = 2;
  raw.modes.c_oflag = OPOST | ONLCR;
  cfsetspeed(&raw.modes, B9600);
  set(&raw);
  REQUIRE(ioctl(raw.master, TIOCSWINSZ, &size) == 0);
  REQUIRE(fchmod(raw.slave, 0640) == 0);
  text(raw.slave, "to the master\n");
  text(raw.master, "to\004 the\n slave\003");
  REQUIRE((twin = dup(raw.master)) >= 0);
  REQUIRE((writer = open(raw.name, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)) >= 0);

  make(&lines, 1);
  lines.modes.c_cc[VEOL] = ';';
  lines.modes.c_iflag |= ICRNL;
  set(&lines);
  text(lines.master, "first\rsecond;\026\003third\004\004par\026\004X");
  wait_for_bytes(lines.slave, 6 + 7 + 6);
  usleep(20000); /* what is being edited is not counted */

  make(&packet, 1);
  set(&packet);
  const int on = 1;
  REQUIRE(ioctl(packet.master, TIOCPKT, &on) == 0);
  text(packet.slave, "in a packet");
  wait_for_bytes(packet.master, 11);
}

static void set_up_states(void) {
  make(&closed, 1);
  set(&closed);
  text(closed.slave, "last words");
  wait_for_bytes(closed.master, 10);
  REQUIRE(close(closed.slave) == 0);
  closed.slave = -1;

  make(&locked, 0);
  REQUIRE(tcgetattr(locked.master, &locked.modes) == 0);
  make(&exclusive, 1);
  set(&exclusive);
  REQUIRE(ioctl(exclusive.slave, TIOCEXCL) == 0 && ioctl(exclusive.master, TIOCEXCL) == 0);

  make(&stopped, 1);
  set(&stopped);
  text(stopped.slave, "before");
  wait_for_bytes(stopped.master, 6);
  text(stopped.master, "\023");
  wait_until_stopped(stopped.slave);
  make(&held, 1);
  set(&held);
  REQUIRE(tcflow(held.slave, TCOOFF) == 0);

  struct pty gone;
  make(&gone, 1);
  orphan = gone.slave;
  REQUIRE(close(gone.master) == 0);

  REQUIRE(setsid() == getpid() || getsid(0) == getpid());
  make(&own, 1);
  set(&own);
  REQUIRE(ioctl(own.slave, TIOCSCTTY, 0) == 0);
}

static void check_queues(void) {
  struct winsize size;
  struct stat st;
  check_modes("the raw one", &raw);
  CHECK_EQ("its window", 0, ioctl(raw.slave, TIOCGWINSZ, &size));
  CHECK("its size", size.ws_row == 33 && size.ws_col == 77 && size.ws_xpixel == 330);
  EXPECT("from the slave", twin, "to the master\r\n");
  EXPECT("from the master", raw.slave, "to\004 the\n slave\003");
  CHECK_EQ("flags", O_WRONLY | O_NONBLOCK, fcntl(writer, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
  CHECK_EQ("close-on-exec", FD_CLOEXEC, fcntl(writer, F_GETFD));
  CHECK_EQ("no flags", 0, fcntl(raw.slave, F_GETFL) & O_NONBLOCK);
  CHECK_EQ("fstat", 0, fstat(raw.slave, &st));
  CHECK_EQ("mode", 0640, st.st_mode & 0777);
  text(writer, "more\n");
  EXPECT("by the writer", raw.master, "more\r\n");

  check_modes("that of lines", &lines);
  EXPECT("a line", lines.slave, "first\n");
  EXPECT("another", lines.slave, "second;");
  EXPECT("without an end", lines.slave, "\003third");
  char none[8];
  CHECK_EQ("end of file", 0, read(lines.slave, none, sizeof none));
  text(lines.master, "\177tial\n");
  EXPECT("that was edited", lines.slave, "par\004tial\n");

  check_modes("that of packets", &packet);
  EXPECT("a packet", packet.master, "\0in a packet");
}

static void check_states(void) {
  char byte;
  int lock = 0;
  struct pollfd p = {.fd = locked.master, .events = POLLIN};
  check_modes("the closed one", &closed);
  EXPECT("what it said", closed.master, "last words");
  CHECK_EQ("then", -1, read(closed.master, &byte, 1));
  CHECK_EQ("then", EIO, errno);
  check_modes("the locked one", &locked);
  CHECK_EQ("its lock", 0, ioctl(locked.master, TIOCGPTLCK, &lock));
  CHECK_EQ("its lock", 1, lock);
  CHECK_EQ("its slave was never opened", 0, poll(&p, 1, 0));
  check_modes("the exclusive one", &exclusive);
  CHECK_EQ("TIOCGEXCL", 0, ioctl(exclusive.slave, TIOCGEXCL, &lock));
  CHECK_EQ("exclusive", 1, lock);
  CHECK_EQ("TIOCGEXCL", 0, ioctl(exclusive.master, TIOCGEXCL, &lock));
  CHECK_EQ("exclusive master", 1, lock);

  check_modes("the stopped one", &stopped);
  EXPECT("before it was stopped", stopped.master, "before");
  CHECK("it is stopped", !is_writable(stopped.slave));
  text(stopped.master, "\021");
  text(stopped.slave, "after");
  EXPECT("after that", stopped.master, "after");
  check_modes("the held one", &held);
  CHECK("it is held", !is_writable(held.slave));
  text(held.master, "\021");
  usleep(20000);
  CHECK("still", !is_writable(held.slave));
  CHECK_EQ("tcflow", 0, tcflow(held.slave, TCOON));
  CHECK("no more", is_writable(held.slave));

  CHECK_EQ("its master is closed", 0, read(orphan, &byte, 1));
  CHECK_EQ("nobody to write to", -1, write(orphan, "x", 1));
  CHECK_EQ("nobody to write to", EIO, errno);
}

static void check_own(void) {
  check_modes("its own", &own);
  CHECK_EQ("session", getpid(), tcgetsid(own.slave));
  CHECK_EQ("foreground", getpgrp(), tcgetpgrp(own.slave));
  const int tty = open("/dev/tty", O_RDWR | O_NOCTTY);
  CHECK("/dev/tty", tty >= 0);
  text(tty, "by name");
  EXPECT("by name", own.master, "by name");
  signal(SIGINT, count);
  text(own.master, "\003");
  for (int i = 0; i < 5000 && interrupts == 0; i++) usleep(1000);
  CHECK_EQ("Ctrl-C", 1, interrupts);
}

/* pty_inside any: the numbers may be others. */
int main(int argc, char **argv) {
  any_name = argc > 1 && strcmp(argv[1], "any") == 0;
  /* As crrestore does. */
  const int all = open("/dev/pts", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  REQUIRE(all >= 0 && flock(all, LOCK_EX) == 0);
  set_up_queues();
  set_up_states();
  while (other_count > 0) close(others[--other_count]);
  close(all);
  test_ready();
  test_wait();
  check_queues();
  check_states();
  check_own();
  test_finish();
}
