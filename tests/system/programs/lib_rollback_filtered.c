/* SPDX-License-Identifier: MIT */
/* crtest: mode=rollback,rollback-alone users=root,nobody
 *
 * A seccomp filter stays with the process: restore() after one was installed can neither take it
 * back nor begin anew without it. It fails with the reason, and the program runs on as it is.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "rollback.h"

int main(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  volatile int since = 0;
  rollback_begin();
  REQUIRE(checkpoint() == 0);
  since = 1;
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
  CHECK_EQ("restore()", -1, restore());
  if (strstr(crerror(), "seccomp") == NULL)
    TEST_FAIL("crerror(), expected the filter as the reason, got %s", crerror());
  CHECK_EQ("what was done since", 1, since);
  CHECK("the filter", syscall(SYS_getppid) == -1 && errno == EDOM);
  test_finish();
}
