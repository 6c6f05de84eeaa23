/* SPDX-License-Identifier: MIT */
/*
 * rollback.h - what the programs share that call restore() on themselves (mode=rollback).
 *
 * Everything in memory comes back with the process, so what must outlive a rollback (how often one
 * was made) is in a file that is closed at the checkpoint. A rollback counts only if it was done in
 * place: crstatus() says so, and why not.
 */
#ifndef TESTS_SYSTEM_ROLLBACK_H
#define TESTS_SYSTEM_ROLLBACK_H

#include <checkpoint_restore.h>
#include <sys/syscall.h>

#include "three_phase.h"

static inline void rollback_begin(void) {
  if (crinit(NULL) != 0) {
    dprintf(STDOUT_FILENO, "FAIL: crinit: %s\n", crerror());
    _exit(1);
  }
  test_ready();
}

/* By a raw call: what a program opens so is not put back. */
static inline int rollback_open(const char *file, int flags) {
  return (int)syscall(SYS_openat, AT_FDCWD, file, flags | O_CLOEXEC, 0600);
}

/* Adds one to a number in a file and returns it: 1, 2, 3 ... */
static inline uint64_t rollback_count(const char *file) {
  uint64_t n = 0;
  int fd = rollback_open(file, O_RDWR | O_CREAT);
  REQUIRE(fd >= 0);
  (void)!read(fd, &n, sizeof n);
  n++;
  REQUIRE(pwrite(fd, &n, sizeof n, 0) == sizeof n);
  close(fd);
  return n;
}

/* All rollbacks until now were in place, and there were so many. */
static inline void rollback_check_in_place(uint64_t expected) {
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  REQUIRE(crstatus(&st) == 0);
  CHECK_STR("why restore() was not in place", "", st.rollback_reason);
  CHECK_EQ("rollbacks", expected, st.rollbacks);
  CHECK_EQ("rollbacks in place", expected, st.rollbacks_in_place);
}

__attribute__((noreturn)) static inline void rollback_now(void) {
  struct crstatus st;
  const int r = restore();
  dprintf(STDOUT_FILENO, "FAIL: restore() returned %d: %s\n", r, crerror());
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  if (crstatus(&st) == 0) dprintf(STDOUT_FILENO, "not in place: %s\n", st.rollback_reason);
  _exit(1);
}

/* The memory map, neighbours that differ in nothing joined: one line for each range of addresses.
 * Buffers must be static, so that reading changes nothing. */
enum { kMapsBytes = 1 << 18 };
static inline void rollback_read_maps(char *out, char *scratch) {
  REQUIRE(test_read_file("/proc/self/maps", scratch, kMapsBytes) > 0);
  unsigned long last_end = 0, last_offset = 0, begin = 0;
  char last[512] = "";
  size_t used = 0;
  out[0] = 0;
  for (char *line = scratch; line != NULL && *line != 0;) {
    char *next = strchr(line, '\n');
    if (next != NULL) *next++ = 0;
    unsigned long start, end, offset, ino;
    char prot[8], dev[16], name[300] = "", now[512];
    if (sscanf(line, "%lx-%lx %7s %lx %15s %lu %299s", &start, &end, prot, &offset, dev, &ino,
               name) < 6)
      break;
    line = next;
    if (strcmp(name, "[heap]") == 0) name[0] = 0; /* moves with the break */
    /* Shared anonymous memory is a new object after a rollback. */
    if (strncmp(name, "/dev/zero", 9) == 0) ino = 0;
    snprintf(now, sizeof now, "%s %s %lu %s", prot, dev, ino, name);
    const int follows = start == last_end && strcmp(now, last) == 0 &&
                        (ino == 0 || offset == last_offset + (last_end - begin));
    if (!follows) {
      if (last[0] != 0)
        used += (size_t)snprintf(out + used, kMapsBytes - used, "%lx-%lx %lx %s\n", begin, last_end,
                                 last_offset, last);
      begin = start;
      last_offset = ino == 0 ? 0 : offset;
      strcpy(last, now);
    }
    last_end = end;
    REQUIRE(used + 1024 < kMapsBytes);
  }
  snprintf(out + used, kMapsBytes - used, "%lx-%lx %lx %s\n", begin, last_end, last_offset, last);
}

static inline void rollback_check_maps(const char *expected, const char *got) {
  while (*expected != 0 && *got != 0) {
    const size_t e = strcspn(expected, "\n"), g = strcspn(got, "\n");
    if (e != g || memcmp(expected, got, e) != 0) {
      TEST_FAIL("the memory map, expected %.*s, got %.*s", (int)e, expected, (int)g, got);
      return;
    }
    expected += e + 1;
    got += g + 1;
  }
  CHECK("both maps end", *expected == 0 && *got == 0);
}

#endif /* TESTS_SYSTEM_ROLLBACK_H */
