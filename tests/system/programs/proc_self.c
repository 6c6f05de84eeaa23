/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * What /proc says about the process: the executable, its name, its arguments and environment, the
 * auxiliary vector, and that the stack and heap are known as such.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <sys/prctl.h>

#include "three_phase.h"

struct snapshot {
  char exe[PATH_MAX], comm[32];
  char cmdline[65536], environ[1 << 20], auxv[4096];
  ssize_t cmdline_bytes, environ_bytes, auxv_bytes;
};

static void take(struct snapshot *s) {
  ssize_t length = readlink("/proc/self/exe", s->exe, sizeof s->exe - 1);
  s->exe[length > 0 ? length : 0] = '\0';
  test_read_file("/proc/self/comm", s->comm, sizeof s->comm);
  s->cmdline_bytes = test_read_file("/proc/self/cmdline", s->cmdline, sizeof s->cmdline);
  s->environ_bytes = test_read_file("/proc/self/environ", s->environ, sizeof s->environ);
  s->auxv_bytes = test_read_file("/proc/self/auxv", s->auxv, sizeof s->auxv);
}

static int has_mapping_named(const char *name) {
  static char maps[1 << 20];
  return test_read_file("/proc/self/maps", maps, sizeof maps) > 0 && strstr(maps, name) != NULL;
}

int main(int argc, char **argv) {
  static struct snapshot before, after;
  take(&before);
  REQUIRE(before.cmdline_bytes > 0 && before.environ_bytes > 0 && before.auxv_bytes > 0);
  REQUIRE(argc >= 1 && strcmp(before.cmdline, argv[0]) == 0);
  int had_heap = has_mapping_named("[heap]");
  test_ready();
  test_wait();
  take(&after);
  CHECK_STR("/proc/self/exe", before.exe, after.exe);
  CHECK_STR("/proc/self/comm", before.comm, after.comm);
  CHECK_EQ("size of /proc/self/cmdline", before.cmdline_bytes, after.cmdline_bytes);
  CHECK_BYTES("/proc/self/cmdline", before.cmdline, after.cmdline, (size_t)before.cmdline_bytes);
  CHECK_EQ("size of /proc/self/environ", before.environ_bytes, after.environ_bytes);
  CHECK_BYTES("/proc/self/environ", before.environ, after.environ, (size_t)before.environ_bytes);
  CHECK_EQ("size of /proc/self/auxv", before.auxv_bytes, after.auxv_bytes);
  CHECK_BYTES("/proc/self/auxv", before.auxv, after.auxv, (size_t)before.auxv_bytes);
  CHECK("a mapping is named [stack]", has_mapping_named("[stack]"));
  CHECK("a mapping is named [vdso]", has_mapping_named("[vdso]"));
  CHECK_EQ("a mapping is named [heap]", had_heap, has_mapping_named("[heap]"));
  CHECK("argv is intact", strcmp(argv[0], before.cmdline) == 0 && argv[argc] == NULL);
  test_finish();
}
