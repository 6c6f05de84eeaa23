/* SPDX-License-Identifier: MIT */
/*
 * omp_work.c ROUNDS - an OpenMP program of four threads: parallel loops, a reduction, tasks. The
 * same output each time. Used by real_programs.py.
 *
 * CR_BUILD: -fopenmp
 */
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { kCells = 200000 };
static uint32_t cells[kCells], next[kCells];

static uint64_t task_sum(int from, int to) {
  if (to - from <= 20000) {
    uint64_t sum = 0;
    for (int i = from; i < to; i++) sum += cells[i];
    return sum;
  }
  uint64_t left, right;
  const int middle = from + (to - from) / 2;
#pragma omp task shared(left)
  left = task_sum(from, middle);
#pragma omp task shared(right)
  right = task_sum(middle, to);
#pragma omp taskwait
  return left + right;
}

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 100;
  omp_set_num_threads(4);
  for (int i = 0; i < kCells; i++) cells[i] = (uint32_t)i * 2654435761u;
  for (int round = 1; round <= rounds; round++) {
    uint64_t sum = 0, tasks = 0;
#pragma omp parallel for reduction(+ : sum) schedule(dynamic, 1000)
    for (int i = 0; i < kCells; i++) {
      next[i] = cells[i] * 31u + cells[(i * 7 + round) % kCells];
      sum += next[i];
    }
#pragma omp parallel for
    for (int i = 0; i < kCells; i++) cells[i] = next[i] ^ (uint32_t)round;
#pragma omp parallel
#pragma omp single
    tasks = task_sum(0, kCells);
    if (round % 50 == 0) {
      printf("%d %llu %llu\n", round, (unsigned long long)sum, (unsigned long long)tasks);
      fflush(stdout);
    }
  }
  return 0;
}
