/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles track=auto,hash,hash-entries
 *
 * MAP_SHARED|MAP_ANONYMOUS memory keeps its content and stays shared: what a child forked
 * afterwards writes is seen by its parent, and what one wrote before that its parent has not looked
 * at.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "three_phase.h"

enum { kBytes = 64 * 4096 };

int main(void) {
  char *shared = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char *read_only = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char *results = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(shared != MAP_FAILED && read_only != MAP_FAILED && results != MAP_FAILED);
  pid_t worker = fork();
  REQUIRE(worker >= 0);
  if (worker == 0) {
    test_fill(results, kBytes / 2, 3);
    _exit(0);
  }
  REQUIRE(waitpid(worker, NULL, 0) == worker);
  test_fill(shared, kBytes / 2, 1); /* the other half is never touched */
  test_fill(read_only, kBytes, 2);
  REQUIRE(mprotect(read_only, kBytes, PROT_READ) == 0);
  test_ready();
  test_wait();
  test_check_fill("written half", shared, kBytes / 2, 1);
  for (int i = kBytes / 2; i < kBytes; i += 64) CHECK_EQ("untouched half", 0, shared[i]);
  test_check_fill("results of a child", results, kBytes / 2, 3);
  for (int i = kBytes / 2; i < kBytes; i += 64) CHECK_EQ("no results", 0, results[i]);
  test_check_fill("read-only shared memory", read_only, kBytes, 2);
  pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    shared[100] = 77;
    shared[kBytes - 1] = 78;
    _exit(shared[0] == (char)test_pattern(1, 0) ? 0 : 1);
  }
  int status = -1;
  CHECK_EQ("waitpid", child, waitpid(child, &status, 0));
  CHECK_EQ("status of the child", 0, status);
  CHECK_EQ("byte written by the child", 77, shared[100]);
  CHECK_EQ("last byte written by the child", 78, shared[kBytes - 1]);
  test_finish();
}
