/* SPDX-License-Identifier: MIT */
/*
 * hog.c - a program that uses much memory and notices when it stands still.
 *
 * Each thread owns a share of the memory. Every millisecond it writes the time to its block of the
 * status file and dirties as many pages as it was asked to; when more than kGapNs went by since its
 * last stamp it records the gap. bench/run.py reads the file: the longest gap around a checkpoint
 * is the pause as the program sees it, the first stamp after a restore is when it made progress.
 * Context: an ordinary program; nothing of ours is linked to it.
 *
 *   hog STATUS_FILE MIB THREADS [DIRTY_MIB_PER_SECOND]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Gaps of the last 16 s at least, should every tick be one. */
enum { kPageBytes = 4096, kBlockBytes = 1 << 18, kGaps = kBlockBytes / 16 - 2, kTickNs = 1000000 };
static const uint64_t kGapNs = 1100000;

struct gap {
  uint64_t end_ns, length_ns; /* CLOCK_MONOTONIC */
};
struct block { /* one per thread, little endian */
  uint64_t stamps, last_ns, gaps, reserved;
  struct gap gap[kGaps]; /* the newest is gap[(gaps - 1) % kGaps] */
};
_Static_assert(sizeof(struct block) == kBlockBytes, "as bench/run.py reads it");

static int g_status;
static unsigned char *g_memory;
static uint64_t g_pages, g_threads;
static double g_dirty_pages_per_ns; /* and thread */

static void die(const char *what) {
  fprintf(stderr, "hog: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* No page is zero and no two are alike. */
static void fill(uint64_t first, uint64_t last) {
  uint64_t x = first * 0x9e3779b97f4a7c15u + 1;
  for (uint64_t p = first; p < last; p++) {
    uint64_t *words = (uint64_t *)(g_memory + p * kPageBytes);
    for (int i = 0; i < kPageBytes / 8; i++) {
      x ^= x << 13, x ^= x >> 7, x ^= x << 17;
      words[i] = x;
    }
  }
}

static void put(uint64_t thread, const void *from, size_t bytes, size_t off) {
  if (pwrite(g_status, from, bytes, (off_t)(thread * kBlockBytes + off)) != (ssize_t)bytes)
    die("writing the status file");
}

static void *work(void *arg) {
  const uint64_t thread = (uint64_t)(uintptr_t)arg;
  const uint64_t first = g_pages * thread / g_threads, last = g_pages * (thread + 1) / g_threads;
  fill(first, last);
  struct block head = {0};
  uint64_t at = first, last_ns = now_ns();
  double due = 0;
  for (;;) {
    const struct timespec tick = {0, kTickNs};
    nanosleep(&tick, NULL);
    for (; due >= 1 && last > first; due -= 1) {
      ++*(uint64_t *)(g_memory + at * kPageBytes);
      if (++at == last) at = first;
    }
    const uint64_t now = now_ns();
    due += (double)(now - last_ns) * g_dirty_pages_per_ns;
    if (now - last_ns > kGapNs) {
      const struct gap g = {now, now - last_ns};
      put(thread, &g, sizeof(g), offsetof(struct block, gap) + head.gaps % kGaps * sizeof(g));
      head.gaps++;
    }
    head.stamps++;
    head.last_ns = last_ns = now;
    put(thread, &head, offsetof(struct block, gap), 0);
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: hog STATUS_FILE MIB THREADS [DIRTY_MIB_PER_SECOND]\n");
    return 2;
  }
  g_threads = strtoul(argv[3], NULL, 0);
  g_pages = (strtoul(argv[2], NULL, 0) << 20) / kPageBytes;
  const double dirty = argc > 4 ? strtod(argv[4], NULL) : 0;
  g_dirty_pages_per_ns = dirty * (1 << 20) / kPageBytes / 1e9 / (double)g_threads;
  g_status = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (g_status < 0 || ftruncate(g_status, (off_t)(g_threads * kBlockBytes)) != 0) die(argv[1]);
  g_memory =
      mmap(NULL, g_pages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (g_memory == MAP_FAILED) die("memory");
  for (uint64_t t = 1; t < g_threads; t++) {
    pthread_t thread;
    errno = pthread_create(&thread, NULL, work, (void *)(uintptr_t)t);
    if (errno != 0) die("making a thread");
  }
  work((void *)0);
  return 0;
}
