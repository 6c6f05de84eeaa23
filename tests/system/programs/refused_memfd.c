/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*memfd
 *
 * A memfd at descriptor 45: the checkpoint is refused by name, and its content stays.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

int main(void) {
  REQUIRE(dup2(memfd_create("scratch", 0), 45) == 45);
  REQUIRE(write(45, "content", 7) == 7);
  test_ready();
  test_wait();
  char text[8] = "";
  CHECK_EQ("pread", 7, pread(45, text, 7, 0));
  CHECK_STR("content", "content", text);
  test_finish();
}
