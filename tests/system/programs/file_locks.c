/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles kill=later
 *
 * Locks on files: flock, also of a directory and by two numbers of one open file; record locks of
 * the process and of an open file, on ranges and to the end; leases. Others are kept out (and let
 * in by read locks), and what was not locked is not.
 */
#define _GNU_SOURCE
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "three_phase.h"

static int exclusive, twin, shared, directory, records, of_file, leased;

static int make(const char *name, int flags) {
  int fd = open(name, O_CREAT | flags, 0644);
  REQUIRE(fd >= 0);
  return fd;
}

static void lock(int fd, int command, int type, off_t start, off_t length) {
  struct flock l = {.l_type = (short)type, .l_start = start, .l_len = length};
  REQUIRE(fcntl(fd, command, &l) == 0);
}

/* What another open file of it may have. */
static int may_flock(const char *name, int operation) {
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  const int may = flock(fd, operation | LOCK_NB) == 0;
  close(fd);
  return may;
}

/* As another process sees it: the type of the lock that is in the way, with its range. */
static int in_the_way(const char *name, int type, off_t start, off_t length, struct flock *ret) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  if (fork() == 0) {
    struct flock l = {.l_type = (short)type, .l_start = start, .l_len = length};
    int fd = open(name, O_RDWR);
    if (fd < 0 || fcntl(fd, F_GETLK, &l) != 0) l.l_type = -1;
    (void)!write(ends[1], &l, sizeof l);
    _exit(0);
  }
  CHECK_EQ("an answer", (long)sizeof *ret, read(ends[0], ret, sizeof *ret));
  close(ends[0]);
  close(ends[1]);
  while (wait(NULL) < 0) {
  }
  return ret->l_type;
}

static void build(void) {
  exclusive = make("exclusive", O_RDONLY);
  shared = make("shared", O_RDWR);
  records = make("records", O_RDWR);
  of_file = make("of_file", O_RDWR);
  leased = make("leased", O_RDONLY);
  REQUIRE(mkdir("directory", 0755) == 0);
  directory = open("directory", O_RDONLY | O_DIRECTORY);
  twin = dup(exclusive);
  REQUIRE(flock(exclusive, LOCK_EX) == 0 && flock(shared, LOCK_SH) == 0);
  REQUIRE(flock(directory, LOCK_EX) == 0);
  lock(records, F_SETLK, F_WRLCK, 10, 20);
  lock(records, F_SETLK, F_RDLCK, 100, 0);
  lock(of_file, F_OFD_SETLK, F_WRLCK, 5, 1);
  lock(of_file, F_OFD_SETLK, F_RDLCK, 6, 4);
  REQUIRE(fcntl(leased, F_SETLEASE, F_RDLCK) == 0);
  REQUIRE(write(records, "grows", 5) == 5);
}

static void check_records(void) {
  struct flock l;
  CHECK_EQ("a written range", F_WRLCK, in_the_way("records", F_RDLCK, 0, 50, &l));
  CHECK_EQ("its begin", 10, l.l_start);
  CHECK_EQ("its length", 20, l.l_len);
  CHECK_EQ("whose it is", getpid(), l.l_pid);
  CHECK_EQ("between the two", F_UNLCK, in_the_way("records", F_WRLCK, 30, 70, &l));
  CHECK_EQ("a read range, reading", F_UNLCK, in_the_way("records", F_RDLCK, 90, 0, &l));
  CHECK_EQ("a read range, writing", F_RDLCK, in_the_way("records", F_WRLCK, 90, 0, &l));
  CHECK_EQ("its begin", 100, l.l_start);
  CHECK_EQ("its length", 0, l.l_len);
  CHECK_EQ("an open file's", F_WRLCK, in_the_way("of_file", F_RDLCK, 0, 6, &l));
  CHECK_EQ("whose it is", -1, l.l_pid);
  CHECK_EQ("its begin", 5, l.l_start);
  CHECK_EQ("its length", 1, l.l_len);
  CHECK_EQ("an open file's, read", F_UNLCK, in_the_way("of_file", F_RDLCK, 6, 0, &l));
  CHECK_EQ("an open file's, written", F_RDLCK, in_the_way("of_file", F_WRLCK, 6, 0, &l));
  CHECK_EQ("its length", 4, l.l_len);
}

int main(void) {
  build();
  test_ready();
  test_wait();
  CHECK_EQ("exclusive", 0, may_flock("exclusive", LOCK_SH));
  CHECK_EQ("shared, sharing", 1, may_flock("shared", LOCK_SH));
  CHECK_EQ("shared, alone", 0, may_flock("shared", LOCK_EX));
  CHECK_EQ("directory", 0, may_flock("directory", LOCK_SH));
  check_records();
  CHECK_EQ("lease", F_RDLCK, fcntl(leased, F_GETLEASE));
  close(exclusive);
  CHECK_EQ("still locked by the twin", 0, may_flock("exclusive", LOCK_SH));
  close(twin);
  CHECK_EQ("free", 1, may_flock("exclusive", LOCK_EX));
  CHECK_EQ("unlock", 0, flock(directory, LOCK_UN));
  CHECK_EQ("free", 1, may_flock("directory", LOCK_EX));
  close(open("records", O_RDONLY)); /* drops the process's */
  struct flock l;
  CHECK_EQ("none is left", F_UNLCK, in_the_way("records", F_WRLCK, 0, 0, &l));
  CHECK_EQ("no lease", 0, fcntl(leased, F_SETLEASE, F_UNLCK));
  test_finish();
}
