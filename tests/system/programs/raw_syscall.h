/* SPDX-License-Identifier: MIT */
/*
 * raw_syscall.h - raw_syscall(number, up to six arguments): the system call instruction in the
 * program's own text, so that nothing that wraps libc's functions (not even syscall()) sees it.
 * Returns what the kernel returns: -errno on failure.
 */
#ifndef TESTS_SYSTEM_RAW_SYSCALL_H
#define TESTS_SYSTEM_RAW_SYSCALL_H

#if !defined(__x86_64__)
#error "raw_syscall() is written for x86-64"
#endif

static inline long raw_syscall6(long number, long a, long b, long c, long d, long e, long f) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall" /* the kernel overwrites rcx and r11 */
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#define RAW_SYSCALL_PICK(n, a, b, c, d, e, f, ...) \
  raw_syscall6((long)(n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define raw_syscall(...) RAW_SYSCALL_PICK(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

#endif /* TESTS_SYSTEM_RAW_SYSCALL_H */
