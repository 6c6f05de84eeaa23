/* SPDX-License-Identifier: MIT */
/* crtest: users=root mode=refuse:may use I/O ports \(ioperm\)
 *
 * Permission to use I/O ports.
 */
#define _GNU_SOURCE
#include <sys/io.h>

#include "three_phase.h"

int main(void) {
  if (ioperm(0x80, 1, 1) != 0) test_skip("ioperm is not allowed here");
  test_ready();
  test_wait();
  test_finish();
}
