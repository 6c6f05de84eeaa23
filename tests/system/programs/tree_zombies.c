/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Children that have ended and were not waited for: by exit, by a signal; one that leads the group
 * of a process that lives, one that led the session of an orphan.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "three_phase.h"

static int *quit;

static pid_t ends_by(int status, int signal_number) {
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid > 0) return pid;
  if (signal_number != 0) kill(getpid(), signal_number);
  _exit(status);
}

__attribute__((noreturn)) static void stay(void) {
  while (__atomic_load_n(quit, __ATOMIC_SEQ_CST) == 0) usleep(2000);
  _exit(0);
}

static void wait_for_end(pid_t pid) {
  siginfo_t info;
  REQUIRE(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) == 0);
}

static void check(pid_t pid, int code, int status) {
  siginfo_t info = {0};
  CHECK_EQ("waitid", 0, waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG));
  CHECK_EQ("its id", pid, info.si_pid);
  CHECK_EQ("how it ended", code, info.si_code);
  CHECK_EQ("its status", status, info.si_status);
}

int main(void) {
  quit = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(quit != MAP_FAILED);
  pid_t five = ends_by(5, 0), zero = ends_by(0, 0), term = ends_by(0, SIGTERM),
        killed = ends_by(0, SIGKILL);
  pid_t leader = fork();
  if (leader == 0) {
    setpgid(0, 0);
    pause();
  }
  usleep(20000);
  pid_t member = fork();
  if (member == 0) {
    if (setpgid(0, leader) != 0) _exit(1);
    stay();
  }
  usleep(20000);
  kill(leader, SIGINT);
  pid_t session = fork();
  if (session == 0) {
    setsid();
    if (fork() == 0) stay();
    _exit(6);
  }
  for (pid_t *p = (pid_t[]){five, zero, term, killed, leader, session, 0}; *p != 0; p++) {
    wait_for_end(*p);
  }
  test_ready();
  test_wait();
  check(term, CLD_KILLED, SIGTERM);
  check(five, CLD_EXITED, 5);
  check(killed, CLD_KILLED, SIGKILL);
  check(zero, CLD_EXITED, 0);
  CHECK_EQ("group of the member", leader, getpgid(member));
  check(leader, CLD_KILLED, SIGINT);
  check(session, CLD_EXITED, 6);
  CHECK_EQ("the member lives", 0, waitpid(-1, NULL, WNOHANG));
  *quit = 1;
  CHECK_EQ("the member's end", member, waitpid(-1, NULL, 0));
  CHECK_EQ("no other child", -1, waitpid(-1, NULL, 0));
  CHECK_EQ("errno", ECHILD, errno);
  test_finish();
}
