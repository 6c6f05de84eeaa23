/* SPDX-License-Identifier: MIT */
/*
 * copy.c - how fast this machine copies memory: what a first checkpoint is compared with.
 *
 *   copy MIB RUNS     prints for each run the nanoseconds of one memcpy of so much to memory that
 *                     is there, and to memory that is touched for the first time
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned char *map(size_t bytes) {
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) {
    perror("copy: memory");
    exit(1);
  }
  return at;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: copy MIB RUNS\n");
    return 2;
  }
  const size_t bytes = (size_t)strtoul(argv[1], NULL, 0) << 20;
  unsigned char *from = map(bytes), *to = map(bytes);
  memset(from, 1, bytes);
  memset(to, 2, bytes);
  for (int i = atoi(argv[2]); i > 0; i--) {
    uint64_t begin = now_ns();
    memcpy(to, from, bytes);
    const uint64_t there = now_ns() - begin;
    unsigned char *new = map(bytes);
    begin = now_ns();
    memcpy(new, from, bytes);
    const uint64_t first = now_ns() - begin;
    if (new[bytes - 1] != 1 || to[0] != 1) return 1;
    munmap(new, bytes);
    printf("%llu %llu\n", (unsigned long long)there, (unsigned long long)first);
  }
  return 0;
}
