/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Working directory, umask, resource limits, nice value, CPU affinity.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "three_phase.h"

struct limit {
  const char *name;
  int resource;
  rlim_t soft, hard;
};
static const struct limit kLimits[] = {
    {"RLIMIT_NOFILE", RLIMIT_NOFILE, 300, 600},
    {"RLIMIT_CORE", RLIMIT_CORE, 0, 0},
    {"RLIMIT_FSIZE", RLIMIT_FSIZE, 1 << 30, 2u << 30},
    {"RLIMIT_STACK", RLIMIT_STACK, 4 << 20, RLIM_INFINITY},
    {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE, 4096, 8192},
};
enum { kLimitCount = sizeof kLimits / sizeof kLimits[0] };

int main(void) {
  struct rlimit before[kLimitCount];
  REQUIRE(mkdir("sub dir", 0755) == 0 || errno == EEXIST);
  REQUIRE(chdir("sub dir") == 0);
  char directory[PATH_MAX], directory_after[PATH_MAX];
  REQUIRE(getcwd(directory, sizeof directory) != NULL);
  umask(027);
  for (int i = 0; i < kLimitCount; i++) {
    struct rlimit now;
    REQUIRE(getrlimit(kLimits[i].resource, &now) == 0);
    before[i].rlim_max = kLimits[i].hard < now.rlim_max ? kLimits[i].hard : now.rlim_max;
    before[i].rlim_cur =
        kLimits[i].soft < before[i].rlim_max ? kLimits[i].soft : before[i].rlim_max;
    REQUIRE(setrlimit(kLimits[i].resource, &before[i]) == 0);
  }
  REQUIRE(setpriority(PRIO_PROCESS, 0, 5) == 0);
  cpu_set_t affinity, affinity_after;
  REQUIRE(sched_getaffinity(0, sizeof affinity, &affinity) == 0);
  int last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &affinity)) last--;
  CPU_ZERO(&affinity);
  CPU_SET(last, &affinity);
  REQUIRE(sched_setaffinity(0, sizeof affinity, &affinity) == 0);

  test_ready();
  test_wait();

  CHECK("getcwd", getcwd(directory_after, sizeof directory_after) != NULL);
  CHECK_STR("working directory", directory, directory_after);
  int fd = open("made here", O_CREAT | O_WRONLY | O_TRUNC, 0777);
  struct stat st;
  CHECK("stat of a new file", fd >= 0 && fstat(fd, &st) == 0);
  CHECK_EQ("its mode under the umask", 0750, st.st_mode & 0777);
  CHECK_EQ("umask", 027, umask(0));
  char what[64];
  for (int i = 0; i < kLimitCount; i++) {
    struct rlimit after;
    getrlimit(kLimits[i].resource, &after);
    snprintf(what, sizeof what, "%s, soft", kLimits[i].name);
    CHECK_EQ(what, before[i].rlim_cur, after.rlim_cur);
    snprintf(what, sizeof what, "%s, hard", kLimits[i].name);
    CHECK_EQ(what, before[i].rlim_max, after.rlim_max);
  }
  CHECK_EQ("nice value", 5, getpriority(PRIO_PROCESS, 0));
  sched_getaffinity(0, sizeof affinity_after, &affinity_after);
  CHECK("CPU affinity", CPU_EQUAL(&affinity, &affinity_after));
  test_finish();
}
