// SPDX-License-Identifier: MIT
// checksum.cc - the one place that includes xxHash. Invariant: as checksum.h. Context: N, H, S, R.
#include "format/checksum.h"

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

namespace cr::format {

uint64_t checksum(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

}  // namespace cr::format
