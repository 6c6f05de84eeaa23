/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:memfd_secret
 *
 * Memory of memfd_secret(), mapped and closed: the checkpoint is refused by name, and its content
 * stays.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>

#include "three_phase.h"

#ifndef __NR_memfd_secret
#define __NR_memfd_secret 447
#endif

int main(void) {
  int fd = (int)syscall(__NR_memfd_secret, 0);
  if (fd < 0) test_skip("no memfd_secret() here");
  REQUIRE(ftruncate(fd, 4096) == 0);
  char *secret = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (secret == MAP_FAILED) test_skip("no locked memory here");
  close(fd);
  test_fill(secret, 4096, 1);
  test_ready();
  test_wait();
  test_check_fill("secret", secret, 4096, 1);
  test_finish();
}
