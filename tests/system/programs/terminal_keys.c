/* SPDX-License-Identifier: MIT */
/*
 * terminal_keys.c - a workload of terminal_test.py: reads single keys from its terminal, of which
 * it has set all modes, and says what it is asked for.
 *
 *   m  are the modes those that it has set?     s  the window, and how often it was told of one
 *   g  is its group in the foreground?          t  the same modes by /dev/tty, opened at the start
 *   q  ends as it found the terminal            x  ends and leaves the modes as they are
 *   l  back to the modes that it found          r  its own again
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>
#include <termios.h>

#include "three_phase.h"

static volatile sig_atomic_t windows;
static struct termios found, wanted;

static void count(int number) {
  (void)number;
  windows++;
}

static int same(int fd) {
  struct termios now;
  memset(&now, 0, sizeof now);
  return tcgetattr(fd, &now) == 0 && memcmp(&now, &wanted, sizeof now) == 0;
}

static void set_own_modes(void) {
  cfmakeraw(&wanted);
  wanted.c_iflag |= IUTF8 | IXANY;
  wanted.c_oflag |= OPOST | ONLCR | OFILL;
  wanted.c_cc[VERASE] = 'e';
  wanted.c_cc[VTIME] = 3;
  wanted.c_cc[VMIN] = 2;
  REQUIRE(tcsetattr(0, TCSANOW, &wanted) == 0);
  memset(&wanted, 0, sizeof wanted);
  REQUIRE(tcgetattr(0, &wanted) == 0);
}

static void answer(char key, int tty) {
  struct winsize w;
  switch (key) {
    case 'm':
      dprintf(1, "modes %s\n", same(0) ? "same" : "differ");
      break;
    case 's':
      REQUIRE(ioctl(0, TIOCGWINSZ, &w) == 0);
      dprintf(1, "window %dx%d, told %s\n", w.ws_row, w.ws_col, windows == 0 ? "never" : "of it");
      break;
    case 'g':
      dprintf(1, "group %s\n", tcgetpgrp(0) == getpgrp() ? "in front" : "behind");
      break;
    case 't':
      dprintf(tty, "by name %s\n", same(tty) ? "same" : "differ");
      break;
    case 'l':
    case 'r':
      REQUIRE(tcsetattr(0, TCSANOW, key == 'l' ? &found : &wanted) == 0);
      dprintf(1, "set\n");
      break;
    case 'q':
      REQUIRE(tcsetattr(0, TCSANOW, &found) == 0);
      exit(0);
    case 'x':
      exit(0);
    default:
      break;
  }
}

int main(int argc, char **argv) {
  const int by_name = argc > 1 && strcmp(argv[1], "tty") == 0;
  const int tty = by_name ? open("/dev/tty", O_RDWR | O_CLOEXEC) : -1;
  struct sigaction action = {.sa_handler = count};
  REQUIRE(sigaction(SIGWINCH, &action, NULL) == 0);
  REQUIRE(tcgetattr(0, &found) == 0 && (!by_name || tty >= 0));
  wanted = found;
  set_own_modes();
  dprintf(1, "keys\n");
  for (;;) {
    char keys[16];
    const ssize_t n = read(0, keys, sizeof keys);
    if (n < 0 && errno == EINTR) continue;
    REQUIRE(n >= 0);
    for (ssize_t i = 0; i < n; i++) answer(keys[i], tty);
    if (n == 0) usleep(1000);
  }
}
