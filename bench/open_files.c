/* SPDX-License-Identifier: MIT */
/*
 * open_files.c - what opening and closing a file takes, for bench/open_files.py.
 *
 * usage: open_files read|write MILLISECONDS   waits so long first; prints nanoseconds, the best of
 * some rounds
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { kRounds = 15, kOpens = 10000 };

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const int flags = strcmp(argv[1], "write") == 0 ? O_WRONLY : O_RDONLY;
  int fd = open("opened", O_CREAT | O_WRONLY, 0644);
  if (fd < 0 || write(fd, "a few bytes\n", 12) != 12) return 1;
  close(fd);
  usleep((useconds_t)atoi(argv[2]) * 1000);
  double best = 1e18;
  for (int round = 0; round < kRounds; round++) {
    const double begin = now_ns();
    for (int i = 0; i < kOpens; i++) {
      fd = open("opened", flags);
      if (fd < 0) return 1;
      close(fd);
    }
    const double each = (now_ns() - begin) / kOpens;
    best = each < best ? each : best;
  }
  printf("%.1f\n", best);
  return 0;
}
