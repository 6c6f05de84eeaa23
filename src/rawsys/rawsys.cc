// SPDX-License-Identifier: MIT
// rawsys.cc - loops around single system calls, and string helpers.
// Invariant: as rawsys.h. Context: N, H, S, R.
#include "rawsys/rawsys.h"

#include <errno.h>

namespace cr::rawsys {

long read_all_at(int fd, void* p, size_t n, uint64_t off) {
  auto* b = static_cast<uint8_t*>(p);
  while (n > 0) {
    long r = sys_pread(fd, b, n, off);
    if (r == -EINTR) continue;
    if (r < 0) return r;
    if (r == 0) return -EIO;
    b += r;
    off += static_cast<uint64_t>(r);
    n -= static_cast<size_t>(r);
  }
  return 0;
}

long write_all_at(int fd, const void* p, size_t n, uint64_t off) {
  const auto* b = static_cast<const uint8_t*>(p);
  while (n > 0) {
    long r = sys_pwrite(fd, b, n, off);
    if (r == -EINTR) continue;
    if (r < 0) return r;
    if (r == 0) return -EIO;
    b += r;
    off += static_cast<uint64_t>(r);
    n -= static_cast<size_t>(r);
  }
  return 0;
}

size_t str_len(const char* s) {
  size_t n = 0;
  while (s[n] != 0) n++;
  return n;
}

bool str_equal(const char* a, const char* b) {
  while (*a != 0 && *a == *b) {
    a++;
    b++;
  }
  return *a == *b;
}

void str_copy(char* to, const char* from, size_t cap) {
  if (cap == 0) return;
  size_t i = 0;
  for (; i + 1 < cap && from[i] != 0; i++) to[i] = from[i];
  to[i] = 0;
}

size_t format_decimal(uint64_t v, char* out) {
  char t[21];
  size_t n = 0;
  do {
    t[n++] = static_cast<char>('0' + v % 10);
    v /= 10;
  } while (v != 0);
  for (size_t i = 0; i < n; i++) out[i] = t[n - 1 - i];
  return n;
}

}  // namespace cr::rawsys
