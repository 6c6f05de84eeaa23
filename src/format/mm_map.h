// SPDX-License-Identifier: MIT
// mm_map.h - the kernel's struct prctl_mm_map, filled from an image's record.
// Invariant: fields and order are the kernel's. Context: N, R. Doc: prctl(2), PR_SET_MM_MAP.
#pragma once

#include <linux/prctl.h>
#include <stddef.h>

#include "format/image.h"

namespace cr::format {

struct MmMap {
  MmRecord mm;
  uint64_t auxv;  // address; with auxv_bytes 0 it stays as it is
  uint32_t auxv_bytes;
  uint32_t exe_fd;
};
static_assert(sizeof(MmMap) == sizeof(prctl_mm_map) &&
              offsetof(MmMap, mm.start_stack) == offsetof(prctl_mm_map, start_stack) &&
              offsetof(MmMap, mm.env_end) == offsetof(prctl_mm_map, env_end) &&
              offsetof(MmMap, auxv) == offsetof(prctl_mm_map, auxv) &&
              offsetof(MmMap, exe_fd) == offsetof(prctl_mm_map, exe_fd));

// The executable stays as it is.
constexpr MmMap mm_map(const MmRecord& mm, uint64_t auxv, uint32_t auxv_bytes) {
  return {mm, auxv, auxv_bytes, ~0u};
}

}  // namespace cr::format
