/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live kill=later users=root,nobody,54321
 *
 * Four threads allocate, resize and free blocks of all sizes without pause, hand some to each
 * other, and check each block's pattern before giving it back. Checkpoints come at any instant,
 * inside the allocator too.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>

#include "three_phase.h"

enum { kThreads = 4, kSlots = 400, kExchange = 64 };

struct block {
  unsigned char *bytes;
  size_t size;
  uint64_t seed;
};
static volatile int go;
static volatile long rounds[kThreads];
static struct block exchange[kExchange];
static pthread_mutex_t exchange_mutex = PTHREAD_MUTEX_INITIALIZER;

static size_t pick_size(uint64_t random) {
  switch (random % 8) {
    case 0:
      return 1 + (random >> 8) % 200000; /* mmapped ones as well */
    case 1:
      return 1 + (random >> 8) % 20000;
    default:
      return 1 + (random >> 8) % 700;
  }
}
/* Only the ends of a block carry the pattern: the rest costs time and shows nothing new. */
static size_t edge(size_t size) { return size < 64 ? size : 64; }
static void write_pattern(const struct block *b) {
  test_fill(b->bytes, edge(b->size), b->seed);
  test_fill(b->bytes + b->size - edge(b->size), edge(b->size), b->seed + 1);
}
static void check_pattern(const struct block *b) {
  if (b->size >= 128) test_check_fill("begin of a block", b->bytes, 64, b->seed);
  test_check_fill("end of a block", b->bytes + b->size - edge(b->size), edge(b->size), b->seed + 1);
}

static void allocate(struct block *b, uint64_t random) {
  b->size = pick_size(random);
  b->seed = random;
  switch (random % 5) {
    case 0:
      b->bytes = calloc(1, b->size);
      break;
    case 1:
      b->bytes = memalign(64, b->size);
      break;
    default:
      b->bytes = malloc(b->size);
      break;
  }
  REQUIRE(b->bytes != NULL);
  if (random % 5 == 0)
    for (size_t i = 0; i < edge(b->size); i++) CHECK_EQ("byte from calloc", 0, b->bytes[i]);
  write_pattern(b);
}
static void release(struct block *b) {
  check_pattern(b);
  free(b->bytes);
  b->bytes = NULL;
}
static void resize(struct block *b, uint64_t random) {
  size_t size = pick_size(random);
  check_pattern(b);
  b->bytes = realloc(b->bytes, size);
  REQUIRE(b->bytes != NULL);
  b->size = size;
  write_pattern(b);
}
static void swap_with_others(struct block *b, uint64_t random) {
  pthread_mutex_lock(&exchange_mutex);
  struct block other = exchange[random % kExchange];
  exchange[random % kExchange] = *b;
  pthread_mutex_unlock(&exchange_mutex);
  *b = other;
}

static void *stress(void *argument) {
  int index = (int)(intptr_t)argument;
  struct block *blocks = calloc(kSlots, sizeof *blocks);
  for (uint64_t round = 0; !go && test_failures == 0; round++) {
    uint64_t random = test_pattern((uint64_t)index + 50, round);
    struct block *b = &blocks[(random >> 40) % kSlots];
    if (b->bytes == NULL)
      allocate(b, random);
    else if (random % 7 == 0)
      resize(b, random);
    else if (random % 7 == 1)
      swap_with_others(b, random);
    else
      release(b);
    rounds[index]++;
  }
  for (int i = 0; i < kSlots; i++)
    if (blocks[i].bytes != NULL) release(&blocks[i]);
  free(blocks);
  return NULL;
}

int main(void) {
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; i++) pthread_create(&threads[i], NULL, stress, (void *)i);
  while (rounds[0] < 1000) usleep(1000);
  test_ready();
  test_wait();
  for (int i = 0; i < kThreads; i++) {
    long before = rounds[i];
    double give_up = test_now() + 20;
    while (rounds[i] < before + 100 && test_now() < give_up && test_failures == 0) usleep(1000);
    CHECK("the thread goes on", rounds[i] >= before + 100 || test_failures != 0);
  }
  go = 1;
  for (int i = 0; i < kThreads; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < kExchange; i++)
    if (exchange[i].bytes != NULL) release(&exchange[i]);
  test_finish();
}
