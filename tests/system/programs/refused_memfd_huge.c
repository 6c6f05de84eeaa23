/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*huge.pages.*MFD_HUGETLB
 *
 * A memfd of huge pages at descriptor 45: the checkpoint is refused by name.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

int main(void) {
  int fd = memfd_create("huge", MFD_HUGETLB);
  if (fd < 0) test_skip("no memfds of huge pages here");
  REQUIRE(dup2(fd, 45) == 45);
  close(fd);
  test_ready();
  test_wait();
  CHECK_EQ("ftruncate", 0, ftruncate(45, 2 << 20));
  test_finish();
}
