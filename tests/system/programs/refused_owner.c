/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:signals go to another process
 *
 * A pipe whose signals go to another process: the checkpoint is refused, and they go there still.
 */
#define _GNU_SOURCE
#include "three_phase.h"

int main(void) {
  int ends[2];
  const pid_t other = getppid();
  REQUIRE(pipe(ends) == 0 && fcntl(ends[0], F_SETOWN, other) == 0);
  test_ready();
  test_wait();
  CHECK_EQ("F_GETOWN", other, fcntl(ends[0], F_GETOWN));
  test_finish();
}
