/* SPDX-License-Identifier: MIT */
/*
 * cli_helper.c - a program with a behaviour on command, for cli_test.py.
 *
 *   exit N           exits with N
 *   die N            kills itself with signal N
 *   late MS exit N   exits with N from a second thread, MS milliseconds after its start
 *   late MS die N    raises signal N in a second thread, likewise
 *   count FILE N     writes 1, 2, ... N to FILE in place, a millisecond apart; then exits with 42
 *   grow FILE N MIB  as count, and rewrites MIB MiB of memory between two numbers
 *   sigint FILE      writes "ready"; on SIGINT adds "interrupted" and exits with 55
 *   args ...         prints its arguments, one a line, and a line from stdin
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct { int milliseconds, dies, number; } late;
static void *end_late(void *unused) {
  (void)unused;
  usleep((unsigned)late.milliseconds * 1000u);
  if (!late.dies) exit(late.number);
  raise(late.number);
  return NULL;
}
static int wait_for_end(char **argv) {
  late.milliseconds = atoi(argv[2]);
  late.dies = strcmp(argv[3], "die") == 0;
  late.number = atoi(argv[4]);
  pthread_t thread;
  if (pthread_create(&thread, NULL, end_late, NULL) != 0) return 1;
  for (;;) pause();
}

static int open_file(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) {
    perror(path);
    exit(1);
  }
  return fd;
}

/* The number has a fixed width, so that a reader never sees half of an old one. */
static int count(const char *path, long last, size_t mebibytes) {
  int fd = open_file(path);
  size_t bytes = mebibytes << 20;
  char *memory = mebibytes != 0 ? malloc(bytes) : NULL;
  for (long number = 1; number <= last; number++) {
    char text[32];
    int length = snprintf(text, sizeof text, "%010ld\n", number);
    if (pwrite(fd, text, (size_t)length, 0) != length) return 1;
    for (size_t i = 0; i < bytes; i += 4096) memory[i] = (char)number;
    usleep(1000);
  }
  return 42;
}

static int interrupted_fd;
static void on_interrupt(int number) {
  (void)number;
  _exit(write(interrupted_fd, "interrupted\n", 12) == 12 ? 55 : 1);
}

static int print_arguments(int argc, char **argv) {
  char line[256] = "";
  for (int i = 2; i < argc; i++) puts(argv[i]);
  if (fgets(line, sizeof line, stdin) != NULL) printf("stdin: %s", line);
  return 0;
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "exit") == 0 && argc == 3) return atoi(argv[2]);
  if (strcmp(what, "die") == 0 && argc == 3) {
    signal(atoi(argv[2]), SIG_DFL);
    raise(atoi(argv[2]));
    return 1;
  }
  if (strcmp(what, "late") == 0 && argc == 5) return wait_for_end(argv);
  if (strcmp(what, "count") == 0 && argc == 4) return count(argv[2], atol(argv[3]), 0);
  if (strcmp(what, "grow") == 0 && argc == 5)
    return count(argv[2], atol(argv[3]), (size_t)atol(argv[4]));
  if (strcmp(what, "sigint") == 0 && argc == 3) {
    interrupted_fd = open_file(argv[2]);
    signal(SIGINT, on_interrupt);
    if (write(interrupted_fd, "ready\n", 6) != 6) return 1;
    for (;;) pause();
  }
  if (strcmp(what, "args") == 0) return print_arguments(argc, argv);
  fprintf(stderr, "cli_helper: see the comment in cli_helper.c\n");
  return 2;
}
