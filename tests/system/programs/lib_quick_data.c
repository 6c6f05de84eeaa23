/* SPDX-License-Identifier: MIT */
/*
 * lib_quick_data.c - initialised data of the program through quick checkpoints: pages of a file
 * that the program has made its own, of which the library keeps copies, so that only those that
 * differ from the last checkpoint are taken.
 *
 * crtest: mode=rollback,rollback-alone users=root,nobody timeout=240
 *
 * In each round some checkpoints are taken one right after the other. Before each a word or more of
 * some pages gets another value, one that it had before, or none; then everything is overwritten,
 * and restore() must bring the words of that moment. No private page may belong to a file that is
 * only read: the library would then read memory by another way, and keep no copies.
 */
#define _GNU_SOURCE
#include "rollback.h"

enum { kWords = 512, kPages = 24, kRounds = 25, kWarm = 4, kRapid = 11, kTries = 200 };

static volatile uint64_t data[kPages + 1][kWords] __attribute__((aligned(4096))) = {{1}};
static volatile uint64_t counter;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t sum(void) {
  uint64_t x = 1469598103934665603u;
  for (int p = 0; p < kPages; p++)
    for (int w = 0; w < kWords; w++) x = (x ^ data[p][w]) * 1099511628211u;
  return x;
}

static uint64_t quick_ones(void) {
  struct crstatus st = {.size = sizeof st};
  REQUIRE(checkpoint_wait(CR_LEVEL_MEMORY) == 0 && crstatus(&st) == 0);
  return st.quick;
}

/* Quick checkpoints are being taken when this returns. */
static void warm_up(void) {
  for (int i = 0; i < kTries; i++) {
    const uint64_t before = quick_ones();
    for (int k = 0; k < kWarm; k++) {
      counter++;
      CHECK_EQ("checkpoint", 0, checkpoint());
    }
    if (quick_ones() >= before + kWarm) return;
  }
  TEST_FAIL("quick checkpoints were taken, expected yes, got no");
}

/* Of a page that turns up again every few steps; to and fro between two values, or nothing. */
static void change(int round, int step) {
  const int page = (round * 7 + step / 3 * 5) % kPages;
  const int word = (round * 131 + step * 17) % kWords;
  switch (step % 3) {
    case 0:
      data[page][word] ^= 0x5555;
      break;
    case 1:
      break;
    case 2:
      data[page][(round * 131 + (step - 2) * 17) % kWords] ^= 0x5555;
  }
  if (step % 4 == 0) {
    data[(page + 1) % kPages][0]++;
    data[kPages - 1][kWords - 1] = (uint64_t)step;
  }
}

static void try_round(int round) {
  const int steps = round % kRapid + 1;
  char file[64];
  snprintf(file, sizeof file, "round.%d", round);
  warm_up();
  const uint64_t quick = quick_ones(), begin = now_ns();
  int r = 0;
  for (int step = 0; step < steps; step++) {
    change(round, step);
    r = checkpoint();
    if (r != 0) break;
  }
  const uint64_t now = sum();
  uint64_t then = 0;
  const int fd = rollback_open(file, O_RDWR | O_CREAT);
  REQUIRE(fd >= 0);
  if (r == 0) {
    REQUIRE(write(fd, &now, sizeof now) == sizeof now);
    close(fd);
    const uint64_t more = quick_ones() - quick;
    const int in_time = now_ns() - begin < 300000000u; /* or an ordinary one was due */
    if (in_time) CHECK_EQ("quick ones", steps, more);
    for (int p = 0; p < kPages; p++) data[p][(round * 3 + p) % kWords] += 77;
    rollback_now();
  }
  CHECK_EQ("restored", CR_RESTORED, r);
  REQUIRE(read(fd, &then, sizeof then) == sizeof then);
  close(fd);
  CHECK_EQ("the data", then, now);
}

int main(void) {
  rollback_begin();
  for (int p = 0; p < kPages; p++) data[p][p] = (uint64_t)p + 1;
  REQUIRE(checkpoint() == 0);
  for (int round = 0; round < kRounds; round++) try_round(round);
  test_finish();
}
