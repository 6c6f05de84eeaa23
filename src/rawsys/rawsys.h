// SPDX-License-Identifier: MIT
// rawsys.h - system calls without libc, a bump of helpers for code that runs without TLS.
// Invariant: every sys_* returns >= 0 or -errno; nothing here reads TLS or allocates.
// Context: N, H, S, R (docs/contexts.md).
#pragma once

#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#include <type_traits>

#include "base/base.h"
#if defined(__x86_64__)
#include "rawsys/arch/x86_64/syscall.h"
#else
#error "no system call layer for this architecture yet: add src/rawsys/arch/<name>/syscall.h"
#endif

namespace cr::rawsys {

template <typename T>
long as_long(T v) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<long>(v);
  } else if constexpr (std::is_null_pointer_v<T>) {
    return 0;
  } else {
    return static_cast<long>(v);
  }
}

// sys(__NR_x, args...): the call itself.
template <typename... A>
long sys(long nr, A... args) {
  static_assert(sizeof...(A) <= 6);
  long v[6] = {as_long(args)...};
  return syscall6(nr, v[0], v[1], v[2], v[3], v[4], v[5]);
}
inline long sys(long nr) { return syscall6(nr, 0, 0, 0, 0, 0, 0); }

constexpr bool is_error(long r) { return r < 0 && r > -4096; }

inline long sys_read(int fd, void* p, size_t n) { return sys(__NR_read, fd, p, n); }
inline long sys_write(int fd, const void* p, size_t n) { return sys(__NR_write, fd, p, n); }
inline long sys_pread(int fd, void* p, size_t n, uint64_t off) {
  return sys(__NR_pread64, fd, p, n, off);
}
inline long sys_pwrite(int fd, const void* p, size_t n, uint64_t off) {
  return sys(__NR_pwrite64, fd, p, n, off);
}
inline long sys_close(int fd) { return sys(__NR_close, fd); }
inline long sys_openat(int dir, const char* path, int flags, int mode = 0) {
  return sys(__NR_openat, dir, path, flags, mode);
}
inline long sys_mmap(uint64_t addr, uint64_t len, int prot, int flags, int fd, uint64_t off) {
  return sys(__NR_mmap, addr, len, prot, flags, fd, off);
}
inline long sys_munmap(uint64_t addr, uint64_t len) { return sys(__NR_munmap, addr, len); }
inline long sys_mprotect(uint64_t addr, uint64_t len, int prot) {
  return sys(__NR_mprotect, addr, len, prot);
}
inline long sys_mremap(uint64_t addr, uint64_t old_len, uint64_t new_len, int flags, uint64_t to) {
  return sys(__NR_mremap, addr, old_len, new_len, flags, to);
}
inline long sys_gettid() { return sys(__NR_gettid); }
inline long sys_getpid() { return sys(__NR_getpid); }
inline long sys_futex(const void* word, int op, uint32_t val, const timespec* timeout = nullptr,
                      const void* word2 = nullptr, uint32_t val3 = 0) {
  return sys(__NR_futex, word, op, val, timeout, word2, val3);
}
[[noreturn]] inline void sys_exit_thread(int code) {
  for (;;) sys(__NR_exit, code);
}
[[noreturn]] inline void sys_exit_group(int code) {
  for (;;) sys(__NR_exit_group, code);
}

// Reads or writes all n bytes at off, going on after short transfers. Returns 0 or -errno
// (-EIO at end of file).
long read_all_at(int fd, void* p, size_t n, uint64_t off);
long write_all_at(int fd, const void* p, size_t n, uint64_t off);

inline uint64_t clock_ns(int clock) {
  timespec ts{};
  sys(__NR_clock_gettime, clock, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1000000000ull + static_cast<uint64_t>(ts.tv_nsec);
}

inline uint64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }

size_t str_len(const char* s);
bool str_equal(const char* a, const char* b);
// Copies at most cap-1 characters and terminates.
void str_copy(char* to, const char* from, size_t cap);
// Writes v in decimal at out (room for 21) and returns the length.
size_t format_decimal(uint64_t v, char* out);

// A line assembled on the stack, for logs and paths where stdio is not allowed.
template <size_t N>
class LineBuffer {
 public:
  LineBuffer& text(const char* s) {
    while (*s != 0 && len_ + 1 < N) buf_[len_++] = *s++;
    buf_[len_] = 0;
    return *this;
  }
  LineBuffer& dec(uint64_t v) {
    char t[24];
    t[format_decimal(v, t)] = 0;
    return text(t);
  }
  LineBuffer& hex(uint64_t v) {
    char t[19] = "0x";
    size_t n = 2;
    int shift = 60;
    while (shift > 0 && ((v >> shift) & 15) == 0) shift -= 4;
    for (; shift >= 0; shift -= 4) t[n++] = "0123456789abcdef"[(v >> shift) & 15];
    t[n] = 0;
    return text(t);
  }
  const char* c_str() const { return buf_; }
  size_t size() const { return len_; }

 private:
  char buf_[N] = {};
  size_t len_ = 0;
};

}  // namespace cr::rawsys
