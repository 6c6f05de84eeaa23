/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live users=root
 *
 * Seccomp filters: two on main, one of which a worker has as well, and a thread in strict mode,
 * which may only read, write and end. A checkpoint makes none of them do what it may not.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "three_phase.h"

static int to_strict[2], from_strict[2];
static pthread_barrier_t built;
static volatile int go;

/* The call fails with this error; all others are allowed. */
static void forbid(unsigned number, unsigned error) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  REQUIRE(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

/* What the report of a stopped thread needs is forbidden too. */
static void forbid_all_of_prctl(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sigaltstack, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  REQUIRE(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

static long status_number(pid_t tid, const char *field) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
  REQUIRE(test_read_file(path, text, sizeof text) > 0);
  const char *at = strstr(text, field);
  REQUIRE(at != NULL);
  return strtol(at + strlen(field), NULL, 10);
}

static pid_t worker_tid, strict_tid;

static void *worker(void *argument) {
  (void)argument;
  worker_tid = gettid();
  forbid(SYS_getppid, EDOM);
  pthread_barrier_wait(&built);
  while (!go) usleep(1000);
  CHECK("getppid in the worker", syscall(SYS_getppid) == -1 && errno == EDOM);
  CHECK("getuid in the worker", syscall(SYS_getuid) == 0);
  return NULL;
}

static void *strict(void *argument) {
  char byte = 0;
  (void)argument;
  strict_tid = gettid();
  pthread_barrier_wait(&built);
  REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
  while (syscall(SYS_read, to_strict[0], &byte, 1) == 1 && byte != 'e') {
    byte++;
    syscall(SYS_write, from_strict[1], &byte, 1);
  }
  syscall(SYS_exit, 0); /* all that it may do: the C library's way out is forbidden */
  return NULL;
}

int main(void) {
  pthread_t thread, other;
  char byte = 'a';
  REQUIRE(pipe(to_strict) == 0 && pipe(from_strict) == 0);
  pthread_barrier_init(&built, NULL, 3);
  REQUIRE(pthread_create(&thread, NULL, worker, NULL) == 0);
  REQUIRE(pthread_create(&other, NULL, strict, NULL) == 0);
  pthread_barrier_wait(&built);
  while (status_number(strict_tid, "Seccomp:") != 1) usleep(1000);
  forbid(SYS_getuid, ERANGE);
  forbid_all_of_prctl();
  test_ready();
  test_wait();
  CHECK("getuid in main", syscall(SYS_getuid) == -1 && errno == ERANGE);
  CHECK("getppid in main", syscall(SYS_getppid) >= 0);
  CHECK_EQ("filters of main", 2, status_number(getpid(), "Seccomp_filters:"));
  CHECK_EQ("filters of the worker", 1, status_number(worker_tid, "Seccomp_filters:"));
  CHECK_EQ("mode of the strict thread", 1, status_number(strict_tid, "Seccomp:"));
  REQUIRE(write(to_strict[1], &byte, 1) == 1 && read(from_strict[0], &byte, 1) == 1);
  CHECK_EQ("answer of the strict thread", 'b', byte);
  byte = 'e';
  REQUIRE(write(to_strict[1], &byte, 1) == 1);
  go = 1;
  pthread_join(thread, NULL);
  test_finish();
}
