/* SPDX-License-Identifier: MIT */
/*
 * A workload of cli_test.py: rolls back again and again, in a process that may die at any moment of
 * it and be brought back by crrestore; each time all memory must be as it was. It ends with PASS
 * when it is told to go, and with status 3 when its agent is gone.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>

#include "rollback.h"

enum { kPages = 512, kBytes = kPages * 4096 };

static void *idle(void *arg) {
  for (;;) usleep(1000);
  return arg;
}

int main(void) {
  pthread_t t;
  rollback_begin();
  unsigned char *pages = malloc(kBytes);
  REQUIRE(pages != NULL);
  test_fill(pages, kBytes, 7);
  const int r = checkpoint();
  CHECK("checkpoint()", r >= 0);
  test_check_fill("memory", pages, kBytes, 7);
  if (test_poll() || test_failures != 0) test_finish();
  for (int i = 0; i < kPages; i += 3) pages[i * 4096 + i]++;
  REQUIRE(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
          MAP_FAILED);
  REQUIRE(pthread_create(&t, NULL, idle, NULL) == 0);
  restore();
  if (errno == EPIPE) exit(3);
  dprintf(STDOUT_FILENO, "FAIL: restore(): %s\n", crerror());
  exit(1);
}
