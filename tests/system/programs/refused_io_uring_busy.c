/* SPDX-License-Identifier: MIT */
/* crtest: plugin=crplugin_io_uring mode=refuse:plug-in io_uring: .* fd [0-9]+: requests are under
 * CR_BUILD: -luring
 *
 * A request that does not end by itself. The ring is as it was afterwards.
 */
#define _GNU_SOURCE
#include <liburing.h>
#include <poll.h>

#include "three_phase.h"

int main(void) {
  struct io_uring ring;
  struct io_uring_cqe *cqe = NULL;
  int ends[2];
  REQUIRE(pipe(ends) == 0 && io_uring_queue_init(8, &ring, 0) == 0);
  struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
  io_uring_prep_poll_add(sqe, ends[0], POLLIN);
  io_uring_sqe_set_data64(sqe, 5);
  REQUIRE(io_uring_submit(&ring) == 1);
  test_ready();
  test_wait();
  REQUIRE(write(ends[1], "x", 1) == 1);
  CHECK_EQ("io_uring_wait_cqe", 0, io_uring_wait_cqe(&ring, &cqe));
  CHECK_EQ("its events", POLLIN, cqe->res & POLLIN);
  test_finish();
}
