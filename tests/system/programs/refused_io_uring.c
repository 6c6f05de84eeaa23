/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:(an io_uring cannot .*--plugin crplugin|of anon_inode:\[io_uring\])
 * CR_BUILD: -luring
 *
 * A ring without its plug-in.
 */
#define _GNU_SOURCE
#include <liburing.h>

#include "three_phase.h"

int main(void) {
  struct io_uring ring;
  REQUIRE(io_uring_queue_init(8, &ring, 0) == 0);
  test_ready();
  test_wait();
  test_finish();
}
