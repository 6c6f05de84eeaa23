/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * restore() with file locks, and with descriptors that signal: in place while the locks are as they
 * were; if they have changed the program begins anew, and has them again. Whom a descriptor signals
 * is as it was either way.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "rollback.h"

enum { kRounds = 8 };

static int locked, records, signalling[2], silent[2];

static void lock(int fd, int type, off_t start, off_t length) {
  struct flock l = {.l_type = (short)type, .l_start = start, .l_len = length};
  REQUIRE(fcntl(fd, F_SETLK, &l) == 0);
}

/* The type of the lock that another process meets there. */
static int met(off_t start, off_t length) {
  struct flock l = {.l_type = F_WRLCK, .l_start = start, .l_len = length};
  int status = 0;
  const pid_t child = fork();
  if (child == 0) _exit(fcntl(records, F_GETLK, &l) == 0 ? l.l_type : 99);
  while (waitpid(child, &status, 0) < 0) {
  }
  return WEXITSTATUS(status);
}

static int may_lock(void) {
  const int fd = open("locked", O_RDONLY | O_CLOEXEC);
  const int may = flock(fd, LOCK_SH | LOCK_NB) == 0;
  close(fd);
  return may;
}

static void check(void) {
  CHECK_EQ("locked", 0, may_lock());
  CHECK_EQ("a record", F_WRLCK, met(10, 5));
  CHECK_EQ("another", F_RDLCK, met(40, 0));
  CHECK_EQ("between", F_UNLCK, met(15, 25));
  CHECK_EQ("F_GETOWN", getpid(), fcntl(signalling[0], F_GETOWN));
  CHECK_EQ("F_GETSIG", SIGURG, fcntl(signalling[0], F_GETSIG));
  CHECK_EQ("O_ASYNC", O_ASYNC, fcntl(signalling[0], F_GETFL) & O_ASYNC);
  CHECK_EQ("nobody", 0, fcntl(silent[0], F_GETOWN));
  CHECK_EQ("no signal", 0, fcntl(silent[0], F_GETSIG));
  CHECK_EQ("no O_ASYNC", 0, fcntl(silent[0], F_GETFL) & O_ASYNC);
}

static void check_reason(const char *expected) {
  struct crstatus st;
  memset(&st, 0, sizeof st);
  st.size = sizeof st;
  REQUIRE(crstatus(&st) == 0);
  const size_t length = expected[0] == 0 ? 1 : strlen(expected);
  CHECK("the reason", strncmp(st.rollback_reason, expected, length) == 0);
  if (test_failures != 0) dprintf(STDOUT_FILENO, "it is: %s\n", st.rollback_reason);
}

/* Returns why the next restore() will not be in place. */
static const char *disturb(uint64_t round) {
  REQUIRE(fcntl(signalling[0], F_SETOWN, 0) == 0 && fcntl(signalling[0], F_SETFL, 0) == 0);
  REQUIRE(fcntl(silent[0], F_SETOWN, getpid()) == 0 && fcntl(silent[0], F_SETSIG, SIGIO) == 0);
  REQUIRE(fcntl(silent[0], F_SETFL, O_ASYNC) == 0);
  if (round % 4 == 1) REQUIRE(flock(locked, LOCK_UN) == 0);
  if (round % 4 == 2) lock(records, F_UNLCK, 0, 12);
  if (round % 4 == 3) {
    REQUIRE(open("records", O_RDONLY) >= 0);
    return "a locked file was opened again since";
  }
  return round % 4 == 0 ? "" : "file locks have changed";
}

int main(void) {
  rollback_begin();
  locked = open("locked", O_CREAT | O_RDWR, 0600);
  records = open("records", O_CREAT | O_RDWR, 0600);
  REQUIRE(locked >= 0 && records >= 0 && pipe(signalling) == 0 && pipe(silent) == 0);
  REQUIRE(flock(locked, LOCK_EX) == 0);
  lock(records, F_WRLCK, 10, 5);
  lock(records, F_RDLCK, 40, 0);
  REQUIRE(fcntl(signalling[0], F_SETOWN, getpid()) == 0);
  REQUIRE(fcntl(signalling[0], F_SETSIG, SIGURG) == 0);
  REQUIRE(fcntl(signalling[0], F_SETFL, O_ASYNC) == 0);
  static char reason[128]; /* of the checkpoint: the one of the last round is in a file */
  /* In a process that began anew pipes are others than those of the image: a new one. */
  while (checkpoint() == CR_RESTORED) {
  }
  const uint64_t round = rollback_count("rounds");
  if (round > 1) {
    test_read_file("reason", reason, sizeof reason);
    check_reason(reason);
  }
  check();
  if (round == kRounds || test_failures != 0) test_finish();
  const char *next = disturb(round);
  const int fd = rollback_open("reason", O_CREAT | O_TRUNC | O_WRONLY);
  REQUIRE(write(fd, next, strlen(next)) == (ssize_t)strlen(next));
  close(fd);
  rollback_now();
}
