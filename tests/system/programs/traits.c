/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * What a program makes of itself that takes no privilege: I/O priorities, scheduling policies,
 * oom_score_adj, the filter of core files, membarrier registration, personality, faulting time
 * stamps, what becomes of memory errors, speculation. Each thread has its own.
 */
#define _GNU_SOURCE
#include <linux/ioprio.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "three_phase.h"

#define MAIN_IO IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6)
#define WORKER_IO IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)

static pthread_barrier_t built;
static volatile int go;
static int oom_score, bypass_before;

static long io_priority(void) { return syscall(SYS_ioprio_get, 1, 0); }

static sigjmp_buf out;
static void on_fault(int number) {
  (void)number;
  siglongjmp(out, 1);
}
static int time_stamp_faults(void) {
  if (sigsetjmp(out, 1) != 0) return 1;
  __builtin_ia32_rdtsc();
  return 0;
}

static void *worker(void *argument) {
  struct sched_param param = {0};
  int mode = 0;
  (void)argument;
  REQUIRE(syscall(SYS_ioprio_set, 1, 0, WORKER_IO) == 0);
  REQUIRE(sched_setscheduler(0, SCHED_IDLE, &param) == 0);
  REQUIRE(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
  const int bypass = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
  const int can = bypass > 0 && (bypass & PR_SPEC_PRCTL) != 0;
  if (can) prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
  bypass_before = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
  REQUIRE(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
  pthread_barrier_wait(&built);
  while (!go) syscall(SYS_nanosleep, &(struct timespec){0, 1000000}, NULL);
  CHECK_EQ("I/O priority of the worker", WORKER_IO, io_priority());
  CHECK_EQ("policy of the worker", SCHED_IDLE, sched_getscheduler(0));
  CHECK_EQ("memory errors of the worker", PR_MCE_KILL_EARLY, prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
  CHECK_EQ("speculation of the worker", bypass_before,
           prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0));
  prctl(PR_GET_TSC, &mode);
  CHECK_EQ("time stamps of the worker", PR_TSC_SIGSEGV, mode);
  CHECK_EQ("they fault", 1, time_stamp_faults());
  prctl(PR_SET_TSC, PR_TSC_ENABLE);
  return NULL;
}

static long own_number(const char *path, int base) {
  char text[64];
  REQUIRE(test_read_file(path, text, sizeof text) > 0);
  return strtol(text, NULL, base);
}

static void write_own(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
  close(fd);
}

static void check_main(void) {
  int mode = 0;
  CHECK_EQ("I/O priority of main", MAIN_IO, io_priority());
  CHECK_EQ("policy of main", SCHED_BATCH | SCHED_RESET_ON_FORK, sched_getscheduler(0));
  CHECK_EQ("nice of main", 13, getpriority(PRIO_PROCESS, 0));
  CHECK_EQ("oom_score_adj", oom_score, own_number("/proc/self/oom_score_adj", 10));
  CHECK_EQ("coredump_filter", 0x31, own_number("/proc/self/coredump_filter", 16));
  CHECK_EQ("personality", ADDR_NO_RANDOMIZE | 0x8000000, personality(0xffffffff));
  CHECK_EQ("memory errors of main", PR_MCE_KILL_DEFAULT, prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
  prctl(PR_GET_TSC, &mode);
  CHECK_EQ("time stamps of main", PR_TSC_ENABLE, mode);
  CHECK_EQ("membarrier: expedited, to all threads", 0,
           syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
  const long sync_core = syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
  CHECK("membarrier: not registered for sync_core", sync_core == -1 && errno == EPERM);
}

int main(void) {
  char text[16];
  struct sched_param param = {0};
  struct sigaction action = {.sa_handler = on_fault};
  sigaction(SIGSEGV, &action, NULL);
  oom_score = (int)own_number("/proc/self/oom_score_adj", 10) + 123;
  snprintf(text, sizeof text, "%d", oom_score);
  write_own("/proc/self/oom_score_adj", text);
  write_own("/proc/self/coredump_filter", "0x31");
  pthread_barrier_init(&built, NULL, 2);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, worker, NULL) == 0);
  pthread_barrier_wait(&built);
  REQUIRE(syscall(SYS_ioprio_set, 1, 0, MAIN_IO) == 0);
  REQUIRE(setpriority(PRIO_PROCESS, 0, 13) == 0);
  REQUIRE(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &param) == 0);
  REQUIRE(personality(ADDR_NO_RANDOMIZE | 0x8000000) >= 0);
  REQUIRE(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
  check_main();
  test_ready();
  test_wait();
  check_main();
  go = 1;
  pthread_join(thread, NULL);
  test_finish();
}
