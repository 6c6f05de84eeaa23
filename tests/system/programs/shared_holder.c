/* SPDX-License-Identifier: MIT */
/*
 * A workload of shared_memory_test.py: `shared_holder KIND NAME MIB` has that much shared memory of
 * known content, prints where it is, and says whether it is as it was when it is told to go. KIND:
 *   whole  a file, all of it mapped; closed
 *   part   a file, its first half mapped; closed
 *   open   a file, all of it mapped and open, and another one, NAME.other, open only
 *   memfd  a memfd that is mapped and open
 *   reader a System V segment that others write to, attached for reading; NAME: its id
 *   sysv   a System V segment with a key of its own; NAME gets its id
 */
#define _GNU_SOURCE
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "three_phase.h"

static char *of_file(const char *kind, const char *name, size_t bytes) {
  int fd = strcmp(kind, "memfd") == 0 ? memfd_create(name, 0)
                                      : open(name, O_RDWR | O_CREAT | O_TRUNC, 0640);
  const int part = strcmp(kind, "part") == 0;
  REQUIRE(fd >= 0 && ftruncate(fd, (off_t)(part ? 2 * bytes : bytes)) == 0);
  if (part) REQUIRE(pwrite(fd, "rest", 4, (off_t)bytes) == 4);
  char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  REQUIRE(p != MAP_FAILED);
  if (strcmp(kind, "whole") == 0 || part) close(fd);
  if (strcmp(kind, "open") == 0) {
    char other[4096];
    snprintf(other, sizeof other, "%s.other", name);
    REQUIRE(open(other, O_RDWR | O_CREAT | O_TRUNC, 0600) >= 0);
  }
  return p;
}

static char *of_segment(const char *name, size_t bytes) {
  int id = shmget((key_t)(0x43530000 | (getpid() & 0xffff)), bytes, IPC_CREAT | IPC_EXCL | 0600);
  REQUIRE(id >= 0);
  char *p = shmat(id, NULL, 0), text[32];
  REQUIRE(p != (char *)-1);
  int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  int length = snprintf(text, sizeof text, "%d\n", id);
  REQUIRE(fd >= 0 && write(fd, text, (size_t)length) == length);
  close(fd);
  return p;
}

/* When it is told to go the others have written another letter. */
static void read_of_others(int id) {
  const char *p = shmat(id, NULL, SHM_RDONLY);
  REQUIRE(p != (const char *)-1 && p[4096] == 'a');
  test_ready();
  test_wait();
  CHECK_EQ("letter", 'b', p[4096]);
  test_finish();
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  if (strcmp(argv[1], "reader") == 0) read_of_others(atoi(argv[2]));
  const size_t bytes = (size_t)atoi(argv[3]) << 20;
  const int sysv = strcmp(argv[1], "sysv") == 0;
  char *p = sysv ? of_segment(argv[2], bytes) : of_file(argv[1], argv[2], bytes);
  test_fill(p, bytes, 1);
  memset(p + bytes / 2, 'S', bytes / 4);
  dprintf(STDOUT_FILENO, "at %p\n", (void *)p);
  test_ready();
  test_wait();
  test_check_fill("first half", p, bytes / 2, 1);
  for (size_t i = bytes / 2; i < bytes / 2 + bytes / 4; i++)
    if (p[i] != 'S') {
      TEST_FAIL("byte %zu of the third quarter", i);
      break;
    }
  if (sysv) {
    struct shmid_ds ds;
    FILE *file = fopen(argv[2], "r");
    int id = -1;
    CHECK("the id", file != NULL && fscanf(file, "%d", &id) == 1);
    CHECK_EQ("IPC_STAT", 0, shmctl(id, IPC_STAT, &ds));
    CHECK_EQ("attached", 1, ds.shm_nattch);
    CHECK_EQ("IPC_RMID", 0, shmctl(id, IPC_RMID, NULL));
  }
  test_finish();
}
