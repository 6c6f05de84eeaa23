/* SPDX-License-Identifier: MIT */
/*
 * lib_terminal.c - a workload of terminal_test.py: a program on a terminal that calls checkpoint()
 * and restore() itself.
 *
 * `lib_terminal back`: sets modes, takes a checkpoint, sets others and goes back, in place, and by
 * beginning anew when it has removed a file.
 * `lib_terminal quick`: checkpoints so often that it captures itself; the modes are changed between
 * two of them, and it waits to be killed.
 */
#define _GNU_SOURCE
#include <termios.h>

#include "rollback.h"

enum { kRounds = 6, kQuick = 400 };

static struct termios found, wanted;

static void set(cc_t time) {
  wanted = found;
  wanted.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
  wanted.c_cc[VTIME] = time;
  REQUIRE(tcsetattr(0, TCSANOW, &wanted) == 0 && tcgetattr(0, &wanted) == 0);
}

static int same(void) {
  struct termios now;
  memset(&now, 0, sizeof now);
  return tcgetattr(0, &now) == 0 && memcmp(&now, &wanted, sizeof now) == 0;
}

static void back(void) {
  int file = open("file", O_CREAT | O_RDWR, 0600), twin = dup(file);
  set(7);
  while (checkpoint() == CR_RESTORED) {
  }
  const uint64_t round = rollback_count("rounds");
  CHECK("the modes of the checkpoint", same());
  REQUIRE(tcsetattr(0, TCSANOW, &found) == 0);
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  REQUIRE(crstatus(&st) == 0);
  const int mixed = st.rollbacks_in_place > 0 && st.rollbacks_in_place < st.rollbacks;
  CHECK("rollbacks of both kinds", round < kRounds || mixed);
  if (round == kRounds || test_failures != 0) test_finish();
  /* A description that two numbers share and one has lost is taken from the other. */
  if (round % 2 == 0) close(twin);
  if (round % 3 == 0) unlink("file"), close(file), file = open("file", O_CREAT | O_RDWR, 0600);
  rollback_now();
}

static void quick(void) {
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  for (int i = 0; i < kQuick; i++) {
    if (i == kQuick / 2) set(9);
    if (checkpoint() == CR_RESTORED) {
      CHECK("the modes of the last checkpoint", same());
      REQUIRE(tcsetattr(0, TCSANOW, &found) == 0);
      test_finish();
    }
  }
  REQUIRE(checkpoint_wait(CR_LEVEL_MEMORY) == 0 && crstatus(&st) == 0);
  dprintf(1, "%s\n", st.quick > kQuick / 2 ? "quick" : "slow");
  for (;;) pause();
}

int main(int argc, char **argv) {
  memset(&found, 0, sizeof found);
  REQUIRE(argc > 1 && tcgetattr(0, &found) == 0);
  rollback_begin();
  if (strcmp(argv[1], "back") == 0)
    back();
  else
    quick();
}
