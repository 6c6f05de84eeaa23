/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live kill=later
 *
 * System V shared memory: with a key, removed while it is attached, attached for reading, unmapped
 * in part and protected in part; id, key, size, and how often it is attached.
 */
#define _GNU_SOURCE
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "three_phase.h"

enum { kPage = 4096, kBytes = 10 * kPage - 50 };
static uint64_t count;
static volatile uint64_t *kept_count, *removed_count;

static void step(void) {
  count++;
  *kept_count = count;
  *removed_count = count;
}

int main(void) {
  key_t key = (key_t)(0x43520000 | (getpid() & 0xffff));
  int id = shmget(key, kBytes, IPC_CREAT | IPC_EXCL | 0600);
  if (id < 0) test_skip("no System V shared memory here");
  char *kept = shmat(id, NULL, 0), *reader = shmat(id, NULL, SHM_RDONLY);
  REQUIRE(kept != (char *)-1 && reader != (char *)-1);
  test_fill(kept, kBytes, 1);
  REQUIRE(munmap(kept + 4 * kPage, 2 * kPage) == 0);
  REQUIRE(mprotect(kept + 7 * kPage, kPage, PROT_READ) == 0);
  int gone = shmget(IPC_PRIVATE, 1 << 20, 0640);
  char *removed = shmat(gone, NULL, 0);
  REQUIRE(gone >= 0 && removed != (char *)-1 && shmctl(gone, IPC_RMID, NULL) == 0);
  test_fill(removed, 3 * kPage, 2);
  kept_count = (volatile uint64_t *)(kept + kPage);
  removed_count = (volatile uint64_t *)(removed + kPage);
  struct shmid_ds then, now;
  REQUIRE(shmctl(id, IPC_STAT, &then) == 0);
  test_ready();
  test_wait_doing(step);

  CHECK_BETWEEN("counter", (long long)count - 1, (long long)count, (long long)*kept_count);
  CHECK_BETWEEN("counter", (long long)count - 1, (long long)count, (long long)*removed_count);
  CHECK_EQ("shmctl", 0, shmctl(id, IPC_STAT, &now));
  CHECK_EQ("key", key, now.shm_perm.__key);
  CHECK_EQ("size", kBytes, now.shm_segsz);
  CHECK_EQ("mode", 0600, now.shm_perm.mode & 0777);
  CHECK_EQ("attached", then.shm_nattch, now.shm_nattch);
  CHECK_EQ("id by key", id, shmget(key, 0, 0));
  test_check_fill("first page", kept, kPage, 1);
  kept[9 * kPage] = 'k';
  CHECK_EQ("attached twice", 'k', reader[9 * kPage]);
  CHECK_EQ("behind the hole", (char)test_pattern(1, 6 * kPage), kept[6 * kPage]);
  CHECK_EQ("in the hole, by the other", (char)test_pattern(1, 5 * kPage), reader[5 * kPage]);
  CHECK("hole", mincore(kept + 4 * kPage, kPage, (unsigned char[1]){0}) < 0 && errno == ENOMEM);
  CHECK("reader stays one", mprotect(reader, kPage, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
  CHECK_EQ("protected part", 0, mprotect(kept + 7 * kPage, kPage, PROT_READ | PROT_WRITE));
  test_check_fill("removed segment", removed, kPage, 2);
  CHECK_EQ("second page", (char)test_pattern(2, kPage + 8), removed[kPage + 8]);
  for (int i = 4 * kPage; i < 1 << 20; i += 512) CHECK_EQ("never touched", 0, removed[i]);
  CHECK_EQ("shmdt", 0, shmdt(removed));
  CHECK_EQ("shmdt", 0, shmdt(reader));
  CHECK_EQ("shmdt", 0, shmdt(kept));
  CHECK_EQ("shmctl", 0, shmctl(id, IPC_STAT, &now));
  CHECK_EQ("attached", 0, now.shm_nattch);
  CHECK_EQ("IPC_RMID", 0, shmctl(id, IPC_RMID, NULL));
  test_finish();
}
