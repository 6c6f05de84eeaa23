/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * What madvise() and mlock() set on a mapping is shown by VmFlags in /proc/self/smaps: the flags
 * dc (DONTFORK), wf (WIPEONFORK), dd (DONTDUMP), hg (HUGEPAGE), nh (NOHUGEPAGE), rr (RANDOM),
 * sr (SEQUENTIAL), lo (locked), nr (NORESERVE) must be as before.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

enum { kBytes = 4 << 20 };

struct advice {
  const char *name, *flag;
  int value; /* for madvise; 0: mlock; -1: MAP_NORESERVE */
  char *memory;
};
static struct advice advices[] = {
    {"MADV_DONTFORK", "dc", MADV_DONTFORK, NULL},
    {"MADV_WIPEONFORK", "wf", MADV_WIPEONFORK, NULL},
    {"MADV_DONTDUMP", "dd", MADV_DONTDUMP, NULL},
    {"MADV_HUGEPAGE", "hg", MADV_HUGEPAGE, NULL},
    {"MADV_NOHUGEPAGE", "nh", MADV_NOHUGEPAGE, NULL},
    {"MADV_RANDOM", "rr", MADV_RANDOM, NULL},
    {"MADV_SEQUENTIAL", "sr", MADV_SEQUENTIAL, NULL},
    {"mlock", "lo", 0, NULL},
    {"MAP_NORESERVE", "nr", -1, NULL},
};
enum { kAdvices = sizeof advices / sizeof advices[0] };

/* The VmFlags line (with a space before each flag and at the end) of the mapping at p. */
static void flags_of(const void *p, char *line, size_t capacity) {
  FILE *smaps = fopen("/proc/self/smaps", "re");
  REQUIRE(smaps != NULL);
  char text[1024];
  int inside = 0;
  snprintf(line, capacity, "%s", "");
  while (fgets(text, sizeof text, smaps) != NULL) {
    unsigned long begin, end;
    if (sscanf(text, "%lx-%lx ", &begin, &end) == 2)
      inside = (uintptr_t)p >= begin && (uintptr_t)p < end;
    if (inside && strncmp(text, "VmFlags:", 8) == 0) snprintf(line, capacity, "%s", text + 8);
  }
  fclose(smaps);
  line[strcspn(line, "\n")] = ' ';
}

static int has_flag(const struct advice *a) {
  char line[1024], flag[8];
  flags_of(a->memory, line, sizeof line);
  snprintf(flag, sizeof flag, " %s ", a->flag);
  return strstr(line, flag) != NULL;
}

int main(void) {
  static int before[kAdvices];
  for (int i = 0; i < kAdvices; i++) {
    struct advice *a = &advices[i];
    int extra = a->value == -1 ? MAP_NORESERVE : 0;
    a->memory =
        mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | extra, -1, 0);
    REQUIRE(a->memory != MAP_FAILED);
    if (a->value == 0)
      REQUIRE(mlock(a->memory, 16384) == 0 || errno == ENOMEM);
    else if (a->value > 0)
      REQUIRE(madvise(a->memory, kBytes, a->value) == 0 || errno == EINVAL);
    test_fill(a->memory, 4096, (uint64_t)i);
    before[i] = has_flag(a); /* a kernel without THP shows no hg, and so on */
  }
  test_ready();
  test_wait();
  for (int i = 0; i < kAdvices; i++) {
    CHECK_EQ(advices[i].name, before[i], has_flag(&advices[i]));
    test_check_fill(advices[i].name, advices[i].memory, 4096, (uint64_t)i);
  }
  test_finish();
}
