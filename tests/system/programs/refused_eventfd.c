/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:\b45\b.*eventfd
 *
 * An eventfd at descriptor 45: the checkpoint is refused by name, and its count stays.
 */
#define _GNU_SOURCE
#include <sys/eventfd.h>

#include "three_phase.h"

int main(void) {
  REQUIRE(dup2(eventfd(41, 0), 45) == 45);
  test_ready();
  test_wait();
  eventfd_t value = 0;
  CHECK_EQ("eventfd_read", 0, eventfd_read(45, &value));
  CHECK_EQ("count", 41, value);
  test_finish();
}
