/* SPDX-License-Identifier: MIT */
/* crtest: mode=refuse:(SysV|System V|shared memory|shmat|\bshm\b)
 *
 * An attached System V shared memory segment: the checkpoint is refused, and the memory stays.
 */
#define _GNU_SOURCE
#include <sys/ipc.h>
#include <sys/shm.h>

#include "three_phase.h"

int main(void) {
  int id = shmget(IPC_PRIVATE, 65536, 0600);
  if (id < 0) test_skip("no System V shared memory here");
  char *memory = shmat(id, NULL, 0);
  REQUIRE(memory != (char *)-1);
  REQUIRE(shmctl(id, IPC_RMID, NULL) == 0); /* goes with the last detach, also if we are killed */
  test_fill(memory, 65536, 1);
  test_ready();
  test_wait();
  test_check_fill("shared memory", memory, 65536, 1);
  CHECK_EQ("shmdt", 0, shmdt(memory));
  test_finish();
}
