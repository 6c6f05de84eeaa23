// SPDX-License-Identifier: MIT
// syscall.h (x86_64) - the system call instruction.
// Invariant: returns the kernel's value, -errno on failure; touches neither errno nor TLS.
// Context: N, H, S, R.
//   rax number/result, rdi rsi rdx r10 r8 r9 arguments; the kernel clobbers rcx and r11.
#pragma once

namespace cr::rawsys {

inline long syscall6(long nr, long a, long b, long c, long d, long e, long f) {
  long ret;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(ret)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return ret;
}

inline void cpu_relax() { __asm__ volatile("pause" ::: "memory"); }

}  // namespace cr::rawsys
