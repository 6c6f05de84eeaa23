// SPDX-License-Identifier: MIT
// checksum.cc - see checksum.h. With arch/, the one place that includes xxHash.
// Invariant: as checksum.h. Context: N, H, S, R.
#include "format/checksum.h"

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

#include "format/wide_checksum.h"

namespace cr::format {

#ifdef CR_NO_VARIABLES
// The restorer cannot remember what the processor has, and asking takes longer than it saves.
uint64_t checksum(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }
#else
namespace {

// Of less, all of the time goes elsewhere.
constexpr size_t kLeastForWide = 512;

enum : int { kUnknown, kNarrow, kWide };
int g_vectors = kUnknown;

}  // namespace

uint64_t checksum(const void* data, size_t bytes) {
  if (bytes < kLeastForWide) return XXH3_64bits(data, bytes);
  int vectors = __atomic_load_n(&g_vectors, __ATOMIC_RELAXED);
  if (vectors == kUnknown) {
    vectors = has_wide_checksum() ? kWide : kNarrow;
    __atomic_store_n(&g_vectors, vectors, __ATOMIC_RELAXED);
  }
  return vectors == kWide ? wide_checksum(data, bytes) : XXH3_64bits(data, bytes);
}
#endif

}  // namespace cr::format
