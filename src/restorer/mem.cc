// SPDX-License-Identifier: MIT
// mem.cc - the four functions a compiler may call by itself, for the blob that has no libc.
// Invariant: byte loops that the compiler may not turn into calls of themselves. Context: R.
#include <stddef.h>
#include <stdint.h>

extern "C" {

void* memcpy(void* to, const void* from, size_t n) {
  void* const ret = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return ret;
}

void* memset(void* to, int c, size_t n) {
  void* const ret = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
  return ret;
}

void* memmove(void* to, const void* from, size_t n) {
  auto* t = static_cast<uint8_t*>(to);
  const auto* f = static_cast<const uint8_t*>(from);
  if (t <= f || t >= f + n) return memcpy(to, from, n);
  while (n-- > 0) {
    t[n] = f[n];
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

int memcmp(const void* a, const void* b, size_t n) {
  const auto* x = static_cast<const uint8_t*>(a);
  const auto* y = static_cast<const uint8_t*>(b);
  for (size_t i = 0; i < n; i++) {
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  }
  return 0;
}
}
