/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Segment descriptors: three of the local table, with different limits and kinds, and one of the
 * thread's own three. Each is there afterwards as it was, and memory is reached through it.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "three_phase.h"

static uint64_t table[8192], table_after[8192];
static uint32_t *low;

static uint32_t read_by(uint16_t selector, uint32_t offset) {
  uint32_t value;
  uint64_t base = 0;
  /* Loading a selector changes the base of gs, which nobody else uses here. */
  __asm__ volatile("mov %2, %%gs\n\tmovl %%gs:(%q1), %0\n\txor %%eax, %%eax\n\tmov %%eax, %%gs"
                   : "=&r"(value)
                   : "r"((uint64_t)offset), "r"((uint32_t)selector)
                   : "rax", "memory");
  (void)base;
  return value;
}

static long set_entry(unsigned number, unsigned limit, unsigned flags) {
  struct user_desc d = {.entry_number = number,
                        .base_addr = (unsigned)(uintptr_t)low,
                        .limit = limit,
                        .seg_32bit = 1,
                        .contents = flags & 3,
                        .read_exec_only = flags >> 2 & 1,
                        .limit_in_pages = flags >> 3 & 1,
                        .useable = 1};
  return syscall(SYS_modify_ldt, 0x11, &d, sizeof d);
}

int main(void) {
  struct user_desc thread = {.entry_number = 13, .limit = 0xfff, .seg_32bit = 1}, after = thread;
  low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  REQUIRE(low != MAP_FAILED);
  for (unsigned i = 0; i < 1024; i++) low[i] = i * 7;
  if (set_entry(0, 0xfff, 0) != 0) test_skip("this kernel has no modify_ldt");
  REQUIRE(set_entry(5, 0x3ff, 4) == 0);
  REQUIRE(set_entry(300, 0, 8) == 0);
  thread.base_addr = (unsigned)(uintptr_t)low;
  const int areas = syscall(SYS_set_thread_area, &thread) == 0;
  REQUIRE(syscall(SYS_modify_ldt, 0, table, sizeof table) > 0);
  CHECK_EQ("memory by entry 5", 70, read_by(5 << 3 | 7, 40));
  test_ready();
  test_wait();
  REQUIRE(syscall(SYS_modify_ldt, 0, table_after, sizeof table_after) > 0);
  for (int i = 0; i < 8192; i++) {
    if (table[i] != table_after[i])
      TEST_FAIL("entry %d, expected %#lx, got %#lx", i, table[i], table_after[i]);
  }
  CHECK_EQ("memory by entry 0", 7, read_by(0 << 3 | 7, 4));
  CHECK_EQ("memory by entry 5", 70, read_by(5 << 3 | 7, 40));
  CHECK_EQ("memory by entry 300", 7 * 1023, read_by(300 << 3 | 7, 4092));
  if (areas) {
    REQUIRE(syscall(SYS_get_thread_area, &after) == 0);
    CHECK_EQ("base of the thread's entry", thread.base_addr, after.base_addr);
    CHECK_EQ("its limit", thread.limit, after.limit);
    CHECK_EQ("memory by it", 70, read_by(13 << 3 | 3, 40));
  }
  test_finish();
}
