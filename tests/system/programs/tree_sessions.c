/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Process groups and sessions: a group leader and a member, a group whose leader is gone, a session
 * with members, one whose leader is gone (a daemon), a child from before its parent's setsid, an
 * orphan that a subreaper of the program's took. They meet in shared anonymous memory.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "three_phase.h"

enum {
  kMain,
  kGroupLeader,
  kGroupMember,
  kLeaderlessMember,
  kSessionLeader,
  kSessionMember,
  kFromBefore,
  kDaemon,
  kSubreaper,
  kOrphan,
  kProcesses
};
static const char *const kNames[] = {
    "main",           "group leader", "group member", "leaderless", "session leader",
    "session member", "from before",  "daemon",       "subreaper",  "orphan"};

struct ids {
  long pid, ppid, pgid, sid;
};
struct board {
  struct ids then[kProcesses], now[kProcesses];
  int asked[kProcesses], answered[kProcesses], quit;
  int built;
};
static struct board *board;

static void note(struct ids *to) {
  to->pid = getpid();
  to->ppid = getppid();
  to->pgid = getpgrp();
  to->sid = getsid(0);
}

static void meet(int n) {
  while (__atomic_load_n(&board->built, __ATOMIC_SEQ_CST) != n) usleep(500);
}

__attribute__((noreturn)) static void serve(int which) {
  note(&board->then[which]);
  __atomic_add_fetch(&board->built, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(&board->quit, __ATOMIC_SEQ_CST) == 0) {
    if (__atomic_exchange_n(&board->asked[which], 0, __ATOMIC_SEQ_CST) != 0) {
      note(&board->now[which]);
      __atomic_store_n(&board->answered[which], 1, __ATOMIC_SEQ_CST);
    }
    usleep(1000);
  }
  while (waitpid(-1, NULL, 0) > 0) {
  }
  _exit(which);
}

static pid_t spawn(int which) {
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) serve(which);
  return pid;
}

static void build_groups(int *count) {
  pid_t leader = fork();
  if (leader == 0) {
    setpgid(0, 0);
    serve(kGroupLeader);
  }
  meet(*count += 1);
  pid_t member = fork();
  if (member == 0) {
    if (setpgid(0, leader) != 0) _exit(90);
    serve(kGroupMember);
  }
  meet(*count += 1);
  pid_t gone = fork();
  if (gone == 0) {
    setpgid(0, 0);
    pause();
  }
  usleep(20000);
  if (fork() == 0) {
    if (setpgid(0, gone) != 0) _exit(91);
    serve(kLeaderlessMember);
  }
  meet(*count += 1);
  kill(gone, SIGKILL);
  waitpid(gone, NULL, 0);
}

static void build_sessions(int *count) {
  if (fork() == 0) {
    spawn(kFromBefore);
    if (setsid() < 0) _exit(92);
    spawn(kSessionMember);
    serve(kSessionLeader);
  }
  meet(*count += 3);
  pid_t middle = fork();
  if (middle == 0) {
    setsid();
    spawn(kDaemon);
    _exit(0);
  }
  waitpid(middle, NULL, 0);
  meet(*count += 1);
  if (fork() == 0) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t parent = fork();
    if (parent == 0) {
      if (fork() == 0) {
        while (getppid() == parent) usleep(500);
        usleep(20000);
        serve(kOrphan);
      }
      _exit(0);
    }
    waitpid(parent, NULL, 0);
    serve(kSubreaper);
  }
  meet(*count += 2);
}

int main(void) {
  board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(board != MAP_FAILED);
  int count = 0;
  build_groups(&count);
  build_sessions(&count);
  usleep(100000); /* the daemon's and the orphan's parents have changed */
  for (int i = 1; i < kProcesses; i++) board->asked[i] = 1;
  for (int i = 1; i < kProcesses; i++) {
    while (board->answered[i] == 0) usleep(1000);
    board->then[i] = board->now[i];
    board->answered[i] = 0;
  }
  note(&board->then[kMain]);
  test_ready();
  test_wait();
  for (int i = 1; i < kProcesses; i++) board->asked[i] = 1;
  const long outside_group = board->then[kMain].pgid, outside_session = board->then[kMain].sid;
  for (int i = 1; i < kProcesses; i++) {
    int tries = 0;
    while (__atomic_load_n(&board->answered[i], __ATOMIC_SEQ_CST) == 0 && tries++ < 5000) {
      usleep(1000);
    }
    if (board->answered[i] == 0) TEST_FAIL("%s does not answer", kNames[i]);
    const struct ids then = board->then[i], now = board->now[i];
    const int good = now.pid == then.pid && (i == kDaemon || now.ppid == then.ppid) &&
                     (then.pgid == outside_group || now.pgid == then.pgid) &&
                     (then.sid == outside_session || now.sid == then.sid);
    if (!good) {
      TEST_FAIL("%s: pid %ld ppid %ld pgid %ld sid %ld, was %ld %ld %ld %ld", kNames[i], now.pid,
                now.ppid, now.pgid, now.sid, then.pid, then.ppid, then.pgid, then.sid);
    }
  }
  CHECK_EQ("the leaderless group can be signalled", 0,
           kill(-(pid_t)board->then[kLeaderlessMember].pgid, 0));
  CHECK_EQ("the daemon's group is its session", board->then[kDaemon].sid,
           getpgid((pid_t)board->then[kDaemon].pid));
  board->quit = 1;
  int ended = 0, status;
  while (waitpid(-1, &status, 0) > 0) ended += WIFEXITED(status) && WEXITSTATUS(status) > 0;
  CHECK_EQ("children that ended as they should", 5, ended);
  test_finish();
}
