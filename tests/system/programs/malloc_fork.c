/* SPDX-License-Identifier: MIT */
/* crtest: mode=live-any
 *
 * Threads allocate, write to streams and flush them all, while another forks children again and
 * again, which use the heap and streams too: no child and no parent ever hangs, also when handlers
 * of pthread_atfork allocate.
 *
 * CR_BUILD: -fno-builtin
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kThreads = 3, kForks = 60 };
static volatile int go;

/* Enough of all sizes that the heap needs new pages and locks. */
static void use_heap(uint64_t seed, int count) {
  void *blocks[64] = {0};
  size_t sizes[64] = {0};
  for (int i = 0; i < count; i++) {
    uint64_t random = test_pattern(seed, (uint64_t)i);
    int k = (int)(random % 64);
    if (blocks[k] != NULL && memcmp(blocks[k], &sizes[k], sizeof sizes[k]) != 0)
      TEST_FAIL("a block was overwritten");
    free(blocks[k]);
    sizes[k] = 8 + (random >> 8) % (i % 16 == 0 ? 300000 : 3000);
    blocks[k] = malloc(sizes[k]);
    REQUIRE(blocks[k] != NULL);
    memcpy(blocks[k], &sizes[k], sizeof sizes[k]);
  }
  for (int k = 0; k < 64; k++) free(blocks[k]);
}

static void *allocate(void *argument) {
  for (uint64_t round = 0; !go; round++) use_heap((uint64_t)(intptr_t)argument + round * 10, 300);
  return NULL;
}
/* A stream's buffer is allocated while the stream is locked. */
static void *open_streams(void *unused) {
  while (!go) {
    FILE *f = fopen("/dev/null", "w");
    REQUIRE(f != NULL);
    fputs("text", f);
    fclose(f);
    char *text = NULL;
    size_t length = 0;
    f = open_memstream(&text, &length);
    for (int i = 0; i < 200; i++) fprintf(f, "line %d of a growing text\n", i);
    fclose(f);
    free(text);
  }
  return unused;
}
static void *flush_all(void *unused) {
  while (!go) {
    fflush(NULL);
    usleep(50);
  }
  return unused;
}

static void *kept[200];
static void before(void) {
  for (int i = 0; i < 200; i++) kept[i] = malloc(1 + (size_t)i * 40);
  free(malloc(400000));
}
static void after(void) {
  for (int i = 0; i < 200; i++) free(kept[i]);
}

/* A child that does not end is killed: its parent says so. */
static int child_status(pid_t child) {
  double give_up = test_now() + 30;
  int status = -1;
  while (test_now() < give_up) {
    if (waitpid(child, &status, WNOHANG) == child) return status;
    usleep(100);
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return status;
}

static void fork_once(int number) {
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    use_heap((uint64_t)number, 400);
    FILE *f = fopen("/dev/null", "w");
    fprintf(f, "%d", number);
    fflush(NULL);
    fclose(f);
    if (number % 10 == 0) {
      pid_t grandchild = fork();
      if (grandchild == 0) {
        use_heap((uint64_t)number + 1, 400);
        _exit(3);
      }
      if (child_status(grandchild) != 3 << 8) _exit(4);
    }
    _exit(7);
  }
  CHECK_EQ("status of a child", 7 << 8, child_status(child));
}

int main(void) {
  pthread_t threads[kThreads + 2];
  pthread_atfork(before, after, after);
  for (intptr_t i = 0; i < kThreads; i++) pthread_create(&threads[i], NULL, allocate, (void *)i);
  pthread_create(&threads[kThreads], NULL, open_streams, NULL);
  pthread_create(&threads[kThreads + 1], NULL, flush_all, NULL);
  for (int i = 0; i < kForks; i++) fork_once(i);
  test_ready();
  for (int i = 0; !test_poll(); i++) fork_once(i);
  for (int i = 0; i < kForks; i++) fork_once(i);
  go = 1;
  for (int i = 0; i < kThreads + 2; i++) pthread_join(threads[i], NULL);
  test_finish();
}
