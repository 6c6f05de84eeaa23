/* SPDX-License-Identifier: MIT */
/*
 * malloc_fork_handlers.c - fork handlers that allocate, registered before the program's first
 * allocation: they run when the heap is locked for the fork already.
 *
 * crtest: mode=cycles
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kBlocks = 1000 };
static void *blocks[kBlocks];

static void before(void) {
  for (int i = 0; i < kBlocks; i++) blocks[i] = malloc(3000);
  free(malloc(100000));
}

static void after(void) {
  for (int i = 0; i < kBlocks; i++) free(blocks[i]);
}

static void early(int argc, char **argv, char **envp) {
  (void)argc, (void)argv, (void)envp;
  pthread_atfork(before, after, after);
}
__attribute__((section(".preinit_array"), used)) static void (*run_early)(int, char **,
                                                                          char **) = early;

static void fork_some(void) {
  for (int i = 0; i < 20; i++) {
    pid_t pid = fork();
    if (pid == 0) {
      free(malloc(100000));
      _exit(0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    CHECK_EQ("status of a child", 0, status);
  }
}

int main(void) {
  fork_some();
  test_ready();
  test_wait();
  fork_some();
  test_finish();
}
