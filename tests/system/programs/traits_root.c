/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles users=root
 *
 * What takes a privilege, each in a thread of its own: real-time and deadline scheduling,
 * capabilities in all five sets, securebits, ids, groups, a real-time I/O priority. The main
 * thread stays as it was started.
 */
#define _GNU_SOURCE
#include <grp.h>
#include <linux/capability.h>
#include <linux/ioprio.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "three_phase.h"

struct schedule {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};
enum { kDeadline = 6, kThreads = 4 };

static pthread_barrier_t built;
static volatile int go;

static void wait_for_go(void) {
  pthread_barrier_wait(&built);
  while (!go) syscall(SYS_nanosleep, &(struct timespec){0, 2000000}, NULL);
}

static void *real_time(void *argument) {
  struct sched_param param = {.sched_priority = 7};
  (void)argument;
  REQUIRE(sched_setscheduler(0, SCHED_FIFO, &param) == 0);
  REQUIRE(syscall(SYS_ioprio_set, 1, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 2)) == 0);
  wait_for_go();
  param.sched_priority = 0;
  CHECK_EQ("policy of the real-time thread", SCHED_FIFO, sched_getscheduler(0));
  sched_getparam(0, &param);
  CHECK_EQ("its priority", 7, param.sched_priority);
  CHECK_EQ("its I/O priority", IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 2),
           syscall(SYS_ioprio_get, 1, 0));
  return NULL;
}

static void *with_deadline(void *argument) {
  const struct schedule set = {.size = sizeof set,
                               .policy = kDeadline,
                               .runtime = 1000000,
                               .deadline = 20000000,
                               .period = 40000000};
  struct schedule is = {0};
  (void)argument;
  REQUIRE(syscall(SYS_sched_setattr, 0, &set, 0) == 0);
  wait_for_go();
  REQUIRE(syscall(SYS_sched_getattr, 0, &is, sizeof is, 0) == 0);
  CHECK_EQ("policy of the thread with a deadline", kDeadline, is.policy);
  CHECK_EQ("its runtime", 1000000, is.runtime);
  CHECK_EQ("its deadline", 20000000, is.deadline);
  CHECK_EQ("its period", 40000000, is.period);
  return NULL;
}

struct caps {
  struct __user_cap_data_struct data[2];
  uint64_t bounding, ambient;
  int securebits;
};
static struct caps read_caps(void) {
  struct caps c = {0};
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  REQUIRE(syscall(SYS_capget, &header, c.data) == 0);
  for (unsigned long i = 0; i <= CAP_LAST_CAP; i++) {
    if (prctl(PR_CAPBSET_READ, i) == 1) c.bounding |= 1ull << i;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1) c.ambient |= 1ull << i;
  }
  c.securebits = prctl(PR_GET_SECUREBITS);
  return c;
}
static void check_caps(const struct caps *expected) {
  const struct caps is = read_caps();
  for (int i = 0; i < 2; i++) {
    CHECK_EQ("effective capabilities", expected->data[i].effective, is.data[i].effective);
    CHECK_EQ("permitted capabilities", expected->data[i].permitted, is.data[i].permitted);
    CHECK_EQ("inheritable capabilities", expected->data[i].inheritable, is.data[i].inheritable);
  }
  CHECK_EQ("bounding set", expected->bounding, is.bounding);
  CHECK_EQ("ambient set", expected->ambient, is.ambient);
  CHECK_EQ("securebits", expected->securebits, is.securebits);
}

static void *with_few_capabilities(void *argument) {
  (void)argument;
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {0};
  const uint32_t bind = 1u << CAP_NET_BIND_SERVICE, kill = 1u << CAP_KILL, set = 1u << CAP_SETPCAP;
  REQUIRE(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) == 0);
  REQUIRE(prctl(PR_CAPBSET_DROP, CAP_AUDIT_READ) == 0);
  data[0].permitted = data[0].effective = bind | kill | set;
  data[0].inheritable = bind;
  REQUIRE(syscall(SYS_capset, &header, data) == 0);
  REQUIRE(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) == 0);
  REQUIRE(prctl(PR_SET_SECUREBITS,
                issecure_mask(SECURE_NO_SETUID_FIXUP) | issecure_mask(SECURE_NOROOT_LOCKED)) == 0);
  data[0].permitted = bind | kill;
  data[0].effective = kill;
  REQUIRE(syscall(SYS_capset, &header, data) == 0);
  const struct caps before = read_caps();
  CHECK_EQ("ambient set", 1ull << CAP_NET_BIND_SERVICE, before.ambient);
  wait_for_go();
  check_caps(&before);
  return NULL;
}

static void *another_user(void *argument) {
  gid_t groups[3] = {4711, 4712, 4713}, is[8];
  uid_t u[3];
  gid_t g[3];
  (void)argument;
  REQUIRE(syscall(SYS_setgroups, 3, groups) == 0);
  REQUIRE(syscall(SYS_setresgid, 2001, 2002, 2003) == 0);
  REQUIRE(syscall(SYS_setresuid, 1001, 1002, 1003) == 0);
  const struct caps before = read_caps();
  CHECK_EQ("capabilities of another user", 0, before.data[0].permitted);
  wait_for_go();
  REQUIRE(getresuid(&u[0], &u[1], &u[2]) == 0 && getresgid(&g[0], &g[1], &g[2]) == 0);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ("user id", 1001 + i, u[i]);
    CHECK_EQ("group id", 2001 + i, g[i]);
  }
  CHECK_EQ("groups", 3, getgroups(8, is));
  for (int i = 0; i < 3; i++) CHECK_EQ("group", groups[i], is[i]);
  check_caps(&before);
  CHECK("it may not become root again", syscall(SYS_setresuid, 0, 0, 0) == -1 && errno == EPERM);
  return NULL;
}

int main(void) {
  static void *(*const kMain[kThreads])(void *) = {real_time, with_deadline, with_few_capabilities,
                                                   another_user};
  pthread_t threads[kThreads];
  const struct caps before = read_caps();
  pthread_barrier_init(&built, NULL, kThreads + 1);
  for (int i = 0; i < kThreads; i++)
    REQUIRE(pthread_create(&threads[i], NULL, kMain[i], NULL) == 0);
  pthread_barrier_wait(&built);
  test_ready();
  test_wait();
  go = 1;
  check_caps(&before);
  CHECK_EQ("user id of main", 0, getuid());
  CHECK_EQ("policy of main", SCHED_OTHER, sched_getscheduler(0));
  for (int i = 0; i < kThreads; i++) pthread_join(threads[i], NULL);
  test_finish();
}
