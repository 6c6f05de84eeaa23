/* SPDX-License-Identifier: MIT */
/*
 * inspect_threads.c - a program with something to see, for inspect_test.py.
 *
 *   inspect_threads DATA   opens the file DATA in two ways, starts the threads "alpha" and "beta",
 *                          prints "ready" and blocks.
 *
 * The threads block below deep_three, which deep_two called, which deep_one called: alpha in
 * read(2),
 * beta in pause(2), reached through a function without unwind table and a signal handler.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
/* The call is not the last thing that the function does, so that it stays a call. */
#define KEEP_FRAME __asm__ volatile("" ::: "memory")

static int pipe_ends[2];
static pthread_barrier_t started;

/* Calls function(argument) with a frame pointer but no unwind table. */
void call_without_table(void (*function)(void *), void *argument);
__asm__(
    ".globl call_without_table\n"
    ".type call_without_table, @function\n"
    "call_without_table:\n"
    "  push %rbp\n"
    "  mov %rsp, %rbp\n"
    "  mov %rdi, %rax\n"
    "  mov %rsi, %rdi\n"
    "  call *%rax\n"
    "  pop %rbp\n"
    "  ret\n"
    ".size call_without_table, . - call_without_table\n");

NOINLINE void in_handler(int number) {
  (void)number;
  pthread_barrier_wait(&started);
  for (;;) pause();
}

/* Interrupted by SIGUSR1 the first time round. */
NOINLINE void wait_for_signal(void *unused) {
  (void)unused;
  pthread_kill(pthread_self(), SIGUSR1);
  KEEP_FRAME;
}

NOINLINE void deep_three(const char *name) {
  if (name[0] == 'b') call_without_table(wait_for_signal, NULL);
  char c;
  pthread_barrier_wait(&started);
  if (read(pipe_ends[0], &c, 1) != 1) abort();
  KEEP_FRAME;
}

NOINLINE void deep_two(const char *name) {
  deep_three(name);
  KEEP_FRAME;
}

NOINLINE void *deep_one(void *name) {
  deep_two(name);
  KEEP_FRAME;
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t alpha, beta;
  struct itimerval timer = {.it_interval = {7, 0}, .it_value = {5000, 0}};
  struct sigaction ignore = {.sa_handler = SIG_IGN};
  if (argc != 2 || pipe(pipe_ends) != 0) return 1;
  int data = open(argv[1], O_RDWR | O_APPEND | O_CLOEXEC);
  int same = dup(data);
  int other = open(argv[1], O_RDONLY);
  if (data < 0 || same < 0 || other < 0 || lseek(other, 3, SEEK_SET) != 3) return 1;
  char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return 1;
  char *heap = sbrk(8192); /* the [heap] of the map; malloc need not use it */
  if (heap == (char *)-1) return 1;
  heap[0] = 1;
  snprintf(map, 64, "%s-%s", "marker", "in-a-page");
  if (write(pipe_ends[1], "", 0) != 0) return 1;
  signal(SIGUSR1, in_handler);
  sigaction(SIGUSR2, &ignore, NULL);
  setitimer(ITIMER_REAL, &timer, NULL);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGWINCH);
  pthread_sigmask(SIG_BLOCK, &mask, NULL);
  raise(SIGWINCH); /* stays pending */
  pthread_barrier_init(&started, NULL, 3);
  if (pthread_create(&alpha, NULL, deep_one, "alpha") != 0) return 1;
  if (pthread_create(&beta, NULL, deep_one, "beta") != 0) return 1;
  pthread_setname_np(alpha, "alpha");
  pthread_setname_np(beta, "beta");
  pthread_barrier_wait(&started);
  printf("ready %p\n", (void *)map);
  fflush(stdout);
  pthread_join(alpha, NULL);
  return map[0] == 'm' ? 0 : 1;
}
