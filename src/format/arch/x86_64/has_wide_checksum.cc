// SPDX-License-Identifier: MIT
// has_wide_checksum.cc - whether AVX2 is there, and the kernel keeps its registers.
// Invariant: asks the processor, as neither libc nor libgcc is there to be asked.
// Context: N, H, S, R.
#include <cpuid.h>

#include "format/wide_checksum.h"

namespace cr::format {

bool has_wide_checksum() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0 || (c & bit_AVX) == 0) {
    return false;
  }
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kVectors = 2 | 4;  // XCR0: SSE and AVX state
  if ((low & kVectors) != kVectors) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_AVX2) != 0;
}

}  // namespace cr::format
