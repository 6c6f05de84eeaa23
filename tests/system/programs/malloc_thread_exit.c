/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live kill=later
 *
 * Thousands of short threads, whose blocks are freed by others, by destructors of thread-specific
 * data (which allocate as well), and by destructors that run after the heap's own. Memory does not
 * grow with the number of threads.
 *
 * CR_BUILD: -fno-builtin
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>

#include "three_phase.h"

enum { kKeys = 6, kBatch = 8, kRounds = 300 };
static pthread_key_t keys[kKeys];
static long destroyed;
static void *mailbox[64];

static void destroy(void *value) {
  uint64_t *block = value;
  if (block[0] != 0x5eed) TEST_FAIL("a value of thread-specific data was overwritten");
  __atomic_add_fetch(&destroyed, 1, __ATOMIC_RELAXED);
  void *more = malloc(200 + block[1] % 3000);
  memset(more, 1, 200);
  if (block[1] < 3) { /* once more: the next round of destructors */
    block[1]++;
    pthread_setspecific(keys[block[2]], block);
  } else {
    free(block);
  }
  free(more);
}

static void *live_briefly(void *argument) {
  uint64_t seed = (uint64_t)(uintptr_t)argument;
  for (uint64_t k = 0; k < kKeys; k++) {
    uint64_t *block = malloc(64 + 100 * k);
    block[0] = 0x5eed, block[1] = k % 2 == 0 ? 3 : 1, block[2] = k;
    pthread_setspecific(keys[k], block);
  }
  for (uint64_t i = 0; i < 40; i++) {
    uint64_t random = test_pattern(seed, i);
    size_t size = 16 + random % 5000;
    char *block = malloc(size);
    block[0] = block[size - 1] = 'x';
    char *other = __atomic_exchange_n(&mailbox[random / 5000 % 64], block, __ATOMIC_ACQ_REL);
    if (other != NULL && other[0] != 'x') TEST_FAIL("another thread's block was overwritten");
    free(other);
  }
  return malloc(100); /* freed by who joins */
}

static void run_threads(uint64_t round) {
  pthread_t threads[kBatch];
  for (uint64_t i = 0; i < kBatch; i++)
    REQUIRE(pthread_create(&threads[i], NULL, live_briefly,
                           (void *)(uintptr_t)(round * kBatch + i)) == 0);
  for (int i = 0; i < kBatch; i++) {
    void *result = NULL;
    pthread_join(threads[i], &result);
    free(result);
  }
}

static size_t resident_kib(void) {
  char text[200];
  long size = 0, resident = 0;
  REQUIRE(test_read_file("/proc/self/statm", text, sizeof text) > 0);
  REQUIRE(sscanf(text, "%ld %ld", &size, &resident) == 2);
  return (size_t)resident * 4;
}

int main(void) {
  for (int k = 0; k < kKeys; k++) REQUIRE(pthread_key_create(&keys[k], destroy) == 0);
  for (uint64_t r = 0; r < 30; r++) run_threads(r);
  size_t early = resident_kib();
  for (uint64_t r = 0; r < kRounds; r++) run_threads(r);
  size_t late = resident_kib();
  CHECK_BETWEEN("resident KiB after many threads", 0, early + 8192, late);
  test_ready();
  uint64_t round = 0;
  do run_threads(round++);
  while (!test_poll());
  for (uint64_t r = 0; r < kRounds; r++) run_threads(r);
  CHECK("destructors ran", destroyed > 2 * kRounds * kBatch * kKeys);
  test_finish();
}
