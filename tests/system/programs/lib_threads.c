/* SPDX-License-Identifier: MIT */
/*
 * lib_threads.c - four CR-threads that compute together through every kind of sync object.
 *
 * Usage: lib_threads [rounds]   (default 2000; a round takes a few milliseconds of work in total)
 *
 * Prints a line every 100 rounds and a last checksum. The invariant: the output depends on `rounds`
 * alone, never on time, scheduling, or on being stopped, killed and restored in between; and the
 * program checks itself (exclusion, the semaphore's bound, each round complete) and exits with 1 if
 * something is wrong. It makes no session of its own, so that it also runs under crrun.
 *
 * A round: each worker changes its own part of the field, reading its neighbour's of the round
 * before (barrier between); at most two do so at a time (semaphore); all add to one sum (mutex).
 * The barrier's serial thread then publishes the round, and main prints it (condition variable).
 */
#include <checkpoint_restore.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kWorkers = 4, kPerWorker = 8192, kPasses = 48, kPrintEvery = 100 };

static struct {
  crmutex_t mutex;
  crcond_t published;
  crsem_t seats; /* two may work at a time */
  crbarrier_t barrier;
  uint64_t *field[2]; /* of this round and of the one before */
  uint64_t sum;       /* of this round so far */
  int added;          /* workers that have added to it */
  int seated;
  long rounds, done;
  uint64_t checksum; /* over all rounds done */
  uint64_t *printed; /* the checksum after each round to be printed */
  int wrong;
} g;

static void check(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "lib_threads: wrong: %s\n", what);
  __atomic_store_n(&g.wrong, 1, __ATOMIC_RELAXED);
}

static uint64_t mix(uint64_t v) {
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9u;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebu;
  return v ^ (v >> 31);
}

static uint64_t work_on_part(int worker, long round) {
  uint64_t *now = g.field[round % 2] + worker * kPerWorker;
  const uint64_t *own = g.field[(round + 1) % 2] + worker * kPerWorker;
  const uint64_t *next = g.field[(round + 1) % 2] + (worker + 1) % kWorkers * kPerWorker;
  uint64_t sum = 0;
  memcpy(now, own, kPerWorker * sizeof(*now));
  for (int pass = 0; pass < kPasses; pass++) {
    for (int i = 0; i < kPerWorker; i++) now[i] = mix(now[i] + next[(i * 7 + pass) % kPerWorker]);
  }
  for (int i = 0; i < kPerWorker; i++) sum += now[i];
  return sum;
}

static void take_seat_and_work(int worker, long round) {
  while (crsem_wait(&g.seats) != 0) {
  }
  check(__atomic_add_fetch(&g.seated, 1, __ATOMIC_RELAXED) <= 2, "more than two seated");
  uint64_t sum = work_on_part(worker, round);
  __atomic_sub_fetch(&g.seated, 1, __ATOMIC_RELAXED);
  check(crsem_post(&g.seats) == 0, "post");

  check(crmutex_lock(&g.mutex) == 0, "lock");
  check(crmutex_lock(&g.mutex) == 0, "lock again (recursive)");
  g.sum += sum;
  g.added++;
  check(crmutex_unlock(&g.mutex) == 0, "unlock");
  check(crmutex_unlock(&g.mutex) == 0, "unlock the last");
}

static void publish(long round) {
  check(crmutex_lock(&g.mutex) == 0, "lock to publish");
  check(g.added == kWorkers, "the round is not complete");
  g.checksum = mix(g.checksum ^ g.sum);
  g.sum = 0;
  g.added = 0;
  g.done = round + 1;
  if (g.done % kPrintEvery == 0) {
    g.printed[g.done / kPrintEvery] = g.checksum;
    crcond_signal(&g.published);
  }
  if (g.done == g.rounds) crcond_broadcast(&g.published);
  check(crmutex_unlock(&g.mutex) == 0, "unlock to publish");
}

static void *work(void *arg) {
  int worker = (int)(intptr_t)arg;
  crthread_t self = crthread_self();
  for (long round = 0; round < g.rounds; round++) {
    take_seat_and_work(worker, round);
    if (crbarrier_wait(&g.barrier) == CRBARRIER_SERIAL_THREAD) publish(round);
    crbarrier_wait(&g.barrier);
    check(crthread_equal(self, crthread_self()), "who am I");
  }
  return (void *)(intptr_t)(1000 + worker);
}

static void must(int condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "lib_threads: cannot go on: %s\n", what);
  exit(1);
}

static void prepare(long rounds) {
  g.rounds = rounds;
  must(crmutex_init(&g.mutex, CRMUTEX_RECURSIVE) == 0 && crcond_init(&g.published) == 0 &&
           crsem_init(&g.seats, 2) == 0 && crbarrier_init(&g.barrier, kWorkers) == 0,
       "init of the sync objects");
  for (int i = 0; i < 2; i++) g.field[i] = crcalloc(kWorkers * kPerWorker, sizeof(uint64_t));
  g.printed = crcalloc((size_t)(rounds / kPrintEvery + 1), sizeof(uint64_t));
  must(g.field[0] != NULL && g.field[1] != NULL && g.printed != NULL, "crcalloc");
  for (int i = 0; i < kWorkers * kPerWorker; i++) g.field[1][i] = mix((uint64_t)i + 1);
}

static void print_rounds(void) {
  for (long next = kPrintEvery; next <= g.rounds; next += kPrintEvery) {
    crmutex_lock(&g.mutex);
    while (g.done < next) check(crcond_wait(&g.published, &g.mutex) == 0, "wait");
    uint64_t checksum = g.printed[next / kPrintEvery];
    crmutex_unlock(&g.mutex);
    printf("round %ld: %016llx\n", next, (unsigned long long)checksum);
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  prepare(argc > 1 ? strtol(argv[1], NULL, 10) : 2000);
  crthread_t workers[kWorkers];
  for (int i = 0; i < kWorkers; i++) {
    char name[16];
    snprintf(name, sizeof(name), "worker %d", i);
    crthread_attr_t attr = {sizeof(attr), 0, 256 * 1024, 0, name};
    must(crthread_create(&workers[i], &attr, work, (void *)(intptr_t)i) == 0, "crthread_create");
  }
  print_rounds();
  for (int i = 0; i < kWorkers; i++) {
    void *value = NULL;
    check(crthread_join(workers[i], &value) == 0, "join");
    check(value == (void *)(intptr_t)(1000 + i), "a worker's value");
  }
  check(crbarrier_destroy(&g.barrier) == 0 && crsem_destroy(&g.seats) == 0 &&
            crcond_destroy(&g.published) == 0 && crmutex_destroy(&g.mutex) == 0,
        "destroy");
  printf("checksum %016llx\n", (unsigned long long)g.checksum);
  for (int i = 0; i < 2; i++) crfree(g.field[i]);
  crfree(g.printed);
  return g.wrong;
}
