/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A private file mapping that is longer than its file: the tail of the last page reads as zeros,
 * and pages wholly behind the end raise SIGBUS, before and after.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "three_phase.h"

enum { kPage = 4096, kFileBytes = kPage + kPage / 2, kMappedBytes = 4 * kPage };

static sigjmp_buf fault_return;
static void on_fault(int number) { siglongjmp(fault_return, number); }
static int signal_of_load(const volatile char *where) {
  int number = sigsetjmp(fault_return, 1);
  if (number == 0) (void)*where;
  return number;
}

int main(void) {
  static char content[kFileBytes];
  struct sigaction action = {.sa_handler = on_fault};
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
  test_fill(content, kFileBytes, 1);
  int fd = open("short.bin", O_RDWR | O_CREAT | O_TRUNC, 0644);
  REQUIRE(fd >= 0 && write(fd, content, kFileBytes) == kFileBytes);
  char *clean = mmap(NULL, kMappedBytes, PROT_READ, MAP_PRIVATE, fd, 0);
  char *dirty = mmap(NULL, kMappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  REQUIRE(clean != MAP_FAILED && dirty != MAP_FAILED);
  dirty[10] = 42;
  dirty[kFileBytes + 10] = 43; /* in the last page, behind the end of the file */
  REQUIRE(signal_of_load(clean + 2 * kPage) == SIGBUS);
  test_ready();
  test_wait();
  CHECK_BYTES("content", content, clean, kFileBytes);
  CHECK_EQ("byte behind the end, clean", 0, clean[kFileBytes + 10]);
  CHECK_EQ("byte in the file, written", 42, dirty[10]);
  CHECK_EQ("byte behind the end, written", 43, dirty[kFileBytes + 10]);
  CHECK_EQ("signal of a page behind the end, clean", SIGBUS, signal_of_load(clean + 2 * kPage));
  CHECK_EQ("signal of a page behind the end, written", SIGBUS, signal_of_load(dirty + 3 * kPage));
  test_finish();
}
