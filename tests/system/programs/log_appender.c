/* SPDX-License-Identifier: MIT */
/*
 * log_appender.c - `log_appender FILE LINES`: writes numbered lines to a log, for real_programs.py.
 *
 * The file is opened with O_APPEND; each line is one write followed by fsync, about a millisecond
 * apart. Every hundredth line is also printed. The invariant: line N of the log has number N; a
 * run that wrote one twice, or left one out, gives another file. It knows nothing of checkpoints.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s FILE LINES\n", argv[0]);
    return 2;
  }
  int fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (fd < 0) {
    perror(argv[1]);
    return 1;
  }
  int lines = atoi(argv[2]);
  unsigned digest = 1;
  for (int number = 0; number < lines; number++) {
    char text[128];
    digest = digest * 1664525u + 1013904223u + (unsigned)number;
    int length =
        snprintf(text, sizeof text, "line %08d %08x %.*s\n", number, digest, (int)(digest % 60),
                 "............................................................");
    if (write(fd, text, (size_t)length) != length || fsync(fd) != 0) {
      perror("writing the log");
      return 1;
    }
    if (number % 100 == 0) printf("%d lines, digest %08x\n", number, digest);
    usleep(800);
  }
  printf("done, digest %08x\n", digest);
  return close(fd) == 0 ? 7 : 1;
}
