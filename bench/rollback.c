/* SPDX-License-Identifier: MIT */
/*
 * rollback.c - a program that calls restore() on itself and says how long that took.
 *
 * It fills its memory, takes a checkpoint, dirties some pages spread over all of it, and rolls
 * back. The time is from the call of restore() to the return of checkpoint() with CR_RESTORED; it
 * is kept in a file that is closed at the checkpoint, since all memory goes back.
 * Context: an ordinary program, linked with the library.
 *
 *   rollback TIMES_FILE MIB DIRTY_PAGES RUNS       one line per rollback: nanoseconds, in place?
 */
#define _GNU_SOURCE
#include <checkpoint_restore.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { kPageBytes = 4096 };

static void die(const char *what) {
  fprintf(stderr, "rollback: %s: %s (%s)\n", what, strerror(errno), crerror());
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The time of the last call, and how many have come back. */
struct kept {
  uint64_t begun_ns, count;
};
static struct kept load(const char *path) {
  struct kept k = {0, 0};
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0) {
    if (read(fd, &k, sizeof k) != sizeof k) memset(&k, 0, sizeof k);
    close(fd);
  }
  return k;
}
static void save(const char *path, struct kept k) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || pwrite(fd, &k, sizeof k, 0) != sizeof k) die(path);
  close(fd);
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: rollback TIMES_FILE MIB DIRTY_PAGES RUNS\n");
    return 2;
  }
  const uint64_t pages = strtoull(argv[2], NULL, 10) << 8, dirty = strtoull(argv[3], NULL, 10);
  const uint64_t runs = strtoull(argv[4], NULL, 10);
  char state[4096];
  snprintf(state, sizeof state, "%s.state", argv[1]);
  if (pages == 0 || dirty > pages) return 2;
  unsigned char *memory =
      mmap(NULL, pages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("mmap");
  uint64_t x = 1;
  for (uint64_t i = 0; i < pages * (kPageBytes / 8); i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    ((uint64_t *)memory)[i] = x;
  }
  if (crinit(NULL) != 0) die("crinit");
  if (checkpoint() < 0) die("checkpoint"); /* the first one makes the file */
  const int r = checkpoint();
  const uint64_t now = now_ns();
  if (r < 0) die("checkpoint");
  struct kept k = load(state);
  if (r == CR_RESTORED) {
    struct crstatus st;
    memset(&st, 0, sizeof st);
    st.size = sizeof st;
    if (crstatus(&st) != 0) die("crstatus");
    FILE *f = fopen(argv[1], "ae");
    if (f == NULL) die(argv[1]);
    fprintf(f, "%llu %d\n", (unsigned long long)(now - k.begun_ns), st.rollback_reason[0] == 0);
    fclose(f);
    k.count++;
  }
  if (k.count >= runs) return 0;
  for (uint64_t i = 0; i < dirty; i++) memory[i * pages / dirty * kPageBytes]++;
  k.begun_ns = now_ns();
  save(state, k);
  restore();
  die("restore");
}
