/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * A position-independent executable under address space randomization: code, data, libraries,
 * heap and stack are at their old places, the personality is unchanged, and new memory does not
 * land on top of anything.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/personality.h>

#include "three_phase.h"

static char data = 5;

int main(void) {
  extern const ElfW(Ehdr) __ehdr_start;
  if (__ehdr_start.e_type != ET_DYN) test_skip("the compiler makes no PIE");
  char local = 6;
  char *heap = malloc(100);
  *heap = 7;
  int persona = personality(0xffffffff);
  /* volatile: these are the addresses as they were, not as the compiler can recompute them */
  volatile uintptr_t code_was = (uintptr_t)&main, data_was = (uintptr_t)&data;
  volatile uintptr_t libc_was = (uintptr_t)dlopen, local_was = (uintptr_t)&local;
  test_ready();
  test_wait();
  CHECK_EQ("address of code", code_was, (uintptr_t)&main);
  CHECK_EQ("address of data", data_was, (uintptr_t)&data);
  CHECK_EQ("address of a libc function", libc_was, (uintptr_t)dlopen);
  CHECK_EQ("address of a local", local_was, (uintptr_t)&local);
  CHECK_EQ("personality", persona, personality(0xffffffff));
  char *fresh[64];
  for (int i = 0; i < 64; i++) {
    fresh[i] = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK("mmap", fresh[i] != MAP_FAILED);
    for (int at = 0; at < 1 << 20; at += 4096) CHECK_EQ("fresh memory", 0, fresh[i][at]);
    memset(fresh[i], i + 1, 1 << 20);
  }
  for (int i = 0; i < 64; i++) {
    CHECK_EQ("first byte of new memory", i + 1, fresh[i][0]);
    munmap(fresh[i], 1 << 20);
  }
  CHECK_EQ("data", 5, data);
  CHECK_EQ("local", 6, local);
  CHECK_EQ("heap", 7, *heap);
  test_finish();
}
