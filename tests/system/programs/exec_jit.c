/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * Generated code: one page that stays rwx and is patched again afterwards, one that was made
 * read-and-execute.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "three_phase.h"

typedef int (*function)(int);

/* lea eax,[rdi+rdi*2]; add eax,imm8; ret  -- 3x + imm */
static void generate(unsigned char *where, signed char addend) {
  const unsigned char code[] = {0x8d, 0x04, 0x7f, 0x83, 0xc0, (unsigned char)addend, 0xc3};
  memcpy(where, code, sizeof code);
}

static unsigned char *page(void) {
  void *p =
      mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) test_skip("this system forbids memory that is writable and executable");
  return p;
}

int main(void) {
  unsigned char *writable = page(), *sealed = page();
  generate(writable, 1);
  generate(sealed, 2);
  REQUIRE(mprotect(sealed, 4096, PROT_READ | PROT_EXEC) == 0);
  REQUIRE(((function)writable)(10) == 31 && ((function)sealed)(10) == 32);
  test_ready();
  test_wait();
  CHECK_EQ("code in the rwx page", 31, ((function)writable)(10));
  CHECK_EQ("code in the rx page", 32, ((function)sealed)(10));
  generate(writable, 5);
  CHECK_EQ("code patched afterwards", 35, ((function)writable)(10));
  test_finish();
}
