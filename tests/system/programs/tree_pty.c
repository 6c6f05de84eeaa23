/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,often
 *
 * A terminal between processes: the parent has the master, the child leads the session of the
 * slave, a grandchild in a group of its own is in the foreground. All know their terminal after a
 * restore.
 */
#define _GNU_SOURCE
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>

#include "three_phase.h"

struct facts {
  long session, group, foreground, rows, opened, asked, answered;
};
struct board {
  struct facts child, grandchild;
  int quit;
};
static struct board *board;

static void look(struct facts *f) {
  struct winsize size = {0};
  int tty = open("/dev/tty", O_RDWR | O_CLOEXEC); /* only if it has a controlling terminal */
  f->opened = tty >= 0;
  f->session = getsid(0);
  f->group = getpgrp();
  f->foreground = tty >= 0 ? tcgetpgrp(tty) : -1;
  if (tty >= 0 && ioctl(tty, TIOCGWINSZ, &size) == 0) f->rows = size.ws_row;
  close(tty);
}

static void serve(struct facts *f) {
  look(f);
  f->answered = 1;
  while (__atomic_load_n(&board->quit, __ATOMIC_SEQ_CST) == 0) {
    if (__atomic_exchange_n(&f->asked, 0, __ATOMIC_SEQ_CST) != 0) {
      look(f);
      __atomic_store_n(&f->answered, 1, __ATOMIC_SEQ_CST);
    }
    usleep(1000);
  }
}

static void child(void) {
  pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    while (tcgetpgrp(0) != getpid()) usleep(500);
    serve(&board->grandchild);
    _exit(0);
  }
  usleep(10000);
  signal(SIGTTOU, SIG_IGN);
  if (tcsetpgrp(0, pid) != 0) _exit(4);
  while (board->grandchild.answered == 0) usleep(500);
  serve(&board->child);
  char line[32] = "";
  waitpid(pid, NULL, 0);
  tcsetpgrp(0, getpgrp());
  if (read(0, line, sizeof line) <= 0) _exit(5);
  if (write(1, line, strlen(line)) < 0) _exit(6);
  _exit(strcmp(line, "typed\n") == 0 ? 0 : 7);
}

static void ask(struct facts *f) {
  __atomic_store_n(&f->answered, 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&f->asked, 1, __ATOMIC_SEQ_CST);
  for (int i = 0; i < 5000 && __atomic_load_n(&f->answered, __ATOMIC_SEQ_CST) == 0; i++) {
    usleep(1000);
  }
  CHECK_EQ("an answer", 1, f->answered);
}

static void check(const char *who, const struct facts *then, const struct facts *now) {
  CHECK_EQ(who, 1, now->opened);
  CHECK_EQ("its session", then->session, now->session);
  CHECK_EQ("its group", then->group, now->group);
  CHECK_EQ("the foreground", then->foreground, now->foreground);
  CHECK_EQ("rows of the window", 17, now->rows);
}

int main(void) {
  board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(board != MAP_FAILED);
  struct winsize size = {17, 33, 0, 0};
  struct termios modes;
  int master;
  char name[64];
  pid_t pid = forkpty(&master, name, NULL, &size);
  REQUIRE(pid >= 0);
  if (pid == 0) child();
  while (__atomic_load_n(&board->child.answered, __ATOMIC_SEQ_CST) == 0) usleep(1000);
  REQUIRE(tcgetattr(master, &modes) == 0);
  modes.c_lflag &= ~(tcflag_t)ECHO;
  REQUIRE(tcsetattr(master, TCSANOW, &modes) == 0);
  REQUIRE(write(master, "typ", 3) == 3); /* a line that is being typed */
  struct facts child_then = board->child, grandchild_then = board->grandchild;
  CHECK_EQ("the foreground is the grandchild's", grandchild_then.group, child_then.foreground);
  test_ready();
  test_wait();
  char now[64] = "";
  CHECK_EQ("ptsname", 0, ptsname_r(master, now, sizeof now));
  CHECK_STR("name of the slave", name, now);
  ask(&board->child);
  ask(&board->grandchild);
  check("the child's terminal", &child_then, &board->child);
  check("the grandchild's terminal", &grandchild_then, &board->grandchild);
  board->quit = 1;
  CHECK_EQ("the rest of the line", 3, write(master, "ed\n", 3));
  char echo[32] = "";
  ssize_t length = 0; /* it may come in pieces */
  while (length < 7) {
    const ssize_t n = read(master, echo + length, sizeof echo - 1 - (size_t)length);
    REQUIRE(n > 0);
    length += n;
  }
  CHECK_EQ("its echo", 7, length);
  CHECK_STR("what it is", "typed\r\n", echo);
  int status = 0;
  CHECK_EQ("waitpid", pid, waitpid(pid, &status, 0));
  CHECK_EQ("its status", 0, status);
  test_finish();
}
