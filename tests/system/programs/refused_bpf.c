/* SPDX-License-Identifier: MIT */
/* crtest: users=root mode=refuse:fd [0-9]+ .*: a bpf object cannot be saved yet; close it
 *
 * A map of bpf(2).
 */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <sys/syscall.h>

#include "three_phase.h"

int main(void) {
  union bpf_attr a;
  memset(&a, 0, sizeof a);
  a.map_type = BPF_MAP_TYPE_ARRAY;
  a.key_size = 4;
  a.value_size = 8;
  a.max_entries = 1;
  if (syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a) < 0) test_skip("bpf is not allowed here");
  test_ready();
  test_wait();
  test_finish();
}
