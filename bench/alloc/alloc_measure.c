/* SPDX-License-Identifier: MIT
 *
 * alloc_measure.c - runs a program and writes what it took: CPU seconds and peak memory.
 * Invariant: the figures are the program's alone. A process keeps through exec the peak memory of
 * the one it was forked from, so the parent must be smaller than anything that is measured: this
 * program is, a Python runner is not. It is linked statically, so LD_PRELOAD goes by it.
 * Context: an ordinary program; bench/alloc/run.py runs it.
 *
 *   alloc_measure RESULT PROGRAM [ARGUMENT...]
 *
 * RESULT gets "STATUS USER_S SYSTEM_S WALL_S PEAK_KIB MINOR_FAULTS"; STATUS is the exit status, or
 * minus the signal. PROGRAM is a path. Exit status: 0 the program was run, whatever became of it;
 * 1 it could not be; 2 misuse.
 * CR_BUILD: -static
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds(struct timeval t) { return (double)t.tv_sec + 1e-6 * (double)t.tv_usec; }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: alloc_measure RESULT PROGRAM [ARGUMENT...]\n");
    return 2;
  }
  const double begin = now();
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a runner that gives up kills us alone */
    execv(argv[2], argv + 2);
    perror(argv[2]);
    _exit(127);
  }
  int status = 0;
  struct rusage usage;
  if (child < 0 || wait4(child, &status, 0, &usage) != child) {
    perror("alloc_measure");
    return 1;
  }
  const double end = now();
  FILE *result = fopen(argv[1], "w");
  if (result == NULL) {
    perror(argv[1]);
    return 1;
  }
  fprintf(result, "%d %.6f %.6f %.6f %ld %ld\n",
          WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status), seconds(usage.ru_utime),
          seconds(usage.ru_stime), end - begin, usage.ru_maxrss, usage.ru_minflt);
  return fclose(result) == 0 ? 0 : 1;
}
