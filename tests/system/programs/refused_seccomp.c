/* SPDX-License-Identifier: MIT */
/* crtest: users=nobody mode=refuse:thread [0-9]+ has a seccomp filter: .*CAP_SYS_ADMIN
 *
 * Only root can read a seccomp filter, and only root can have a filtered thread say what it must:
 * here it would be killed by the first prctl().
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "three_phase.h"

static void *worker(void *argument) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof code / sizeof *code, code};
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
  *(volatile int *)argument = 1;
  pause();
  return NULL;
}

int main(void) {
  static volatile int filtered;
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, worker, (void *)&filtered) == 0);
  while (!filtered) usleep(1000);
  test_ready();
  test_wait();
  test_finish();
}
