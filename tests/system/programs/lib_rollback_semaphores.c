/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() with System V semaphores: their values are put back in place.
 */
#define _GNU_SOURCE
#include <sys/sem.h>

#include "rollback.h"

enum { kRounds = 6 };

static int operate(int set, int number, int by, int flags) {
  struct sembuf op = {(unsigned short)number, (short)by, (short)flags};
  return semop(set, &op, 1);
}

int main(void) {
  rollback_begin();
  int set = semget(IPC_PRIVATE, 2, 0600);
  REQUIRE(set >= 0 && semctl(set, 0, SETVAL, 10) == 0 && semctl(set, 1, SETVAL, 3) == 0);
  REQUIRE(operate(set, 1, -2, SEM_UNDO) == 0);
  while (checkpoint() == CR_RESTORED) {
  }
  const uint64_t round = rollback_count("rounds");
  if (round > 1) rollback_check_in_place(round - 1);
  CHECK_EQ("one", 10, semctl(set, 0, GETVAL));
  CHECK_EQ("another", 1, semctl(set, 1, GETVAL));
  if (round == kRounds || test_failures != 0) {
    semctl(set, 0, IPC_RMID);
    test_finish();
  }
  REQUIRE(operate(set, 0, 5, 0) == 0 && operate(set, 1, 1, SEM_UNDO) == 0);
  if (round % 2 == 0) REQUIRE(semctl(set, 1, SETVAL, 0) == 0);
  rollback_now();
}
