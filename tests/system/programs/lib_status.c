/* SPDX-License-Identifier: MIT */
/*
 * lib_status.c - asks for an automatic interval, and looks at crstatus() until checkpoints were
 * taken by themselves. For cli_test.py.
 *
 * Usage: lib_status IMAGE.dir
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int complain(const char *what) {
  fprintf(stderr, "%s: %s\n", what, crerror());
  return 1;
}

/* A program that was compiled with the struct of an earlier version. */
static int old_struct_is_respected(void) {
  struct crstatus st;
  memset(&st, 0x5a, sizeof st);
  st.size = offsetof(struct crstatus, interval_auto);
  if (crstatus(&st) != 0) return complain("crstatus with an old struct");
  const unsigned char *rest = (const unsigned char *)&st.interval_auto;
  for (size_t i = 0; i < sizeof st - st.size; i++) {
    if (rest[i] != 0x5a) return fprintf(stderr, "written behind an old struct\n"), 1;
  }
  return 0;
}

int main(int argc, char **argv) {
  struct crattr attr = CRATTR_INIT;
  if (argc != 2 && argc != 3) return 2;
  attr.image_dir = argv[1];
  attr.interval_seconds = -2;
  if (crinit(&attr) != -1 || errno != EINVAL) return fprintf(stderr, "-2 was accepted\n"), 1;
  attr.interval_seconds = CR_INTERVAL_AUTO;
  attr.track = CR_TRACKER_HASH + 1;
  if (crinit(&attr) != -1 || errno != EINVAL) return fprintf(stderr, "track 5 was accepted\n"), 1;
  attr.track = argc == 3 ? (uint32_t)atoi(argv[2]) : 0;
  if (crinit(&attr) != 0) return complain("crinit");
  struct crstatus st = {.size = sizeof st};
  const struct timespec pause = {0, 10000000};
  double before = -1;
  for (int i = 0; i < 6000; i++) {
    if (crstatus(&st) != 0) return complain("crstatus");
    if (before < 0 && st.interval_auto == 1) before = st.interval_seconds;
    if (st.sequence >= 2) break;
    nanosleep(&pause, NULL);
  }
  if (st.sequence < 2) return fprintf(stderr, "no checkpoint in a minute\n"), 1;
  if (!(before >= 0.01 && before <= 3600) || !(st.interval_seconds >= 0.01)) {
    return fprintf(stderr, "interval %g, %g\n", before, st.interval_seconds), 1;
  }
  if (!(st.overhead_percent > 0 && st.overhead_percent <= 100) || st.changed_bytes == 0) {
    return fprintf(stderr, "overhead %g %%, %llu bytes\n", st.overhead_percent,
                   (unsigned long long)st.changed_bytes),
           1;
  }
  printf("auto %u tracker %u overhead %g\n", st.interval_auto, st.tracker, st.overhead_percent);
  return old_struct_is_respected();
}
