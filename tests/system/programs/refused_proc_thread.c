/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:/task/[0-9]+/comm.*what /proc says of one of the threads.*close it
 *
 * Open in /proc is what belongs to another thread than the first: that one is not there yet when a
 * restored process gets its descriptors.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "three_phase.h"

static volatile int file = -1;

static void *open_own(void *unused) {
  (void)unused;
  file = open("/proc/thread-self/comm", O_RDONLY | O_CLOEXEC);
  pause();
  return NULL;
}

int main(void) {
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, open_own, NULL) == 0);
  while (file < 0) usleep(1000);
  test_ready();
  test_wait();
  char name[32];
  CHECK("it can still be read", pread(file, name, sizeof name, 0) > 0);
  test_finish();
}
