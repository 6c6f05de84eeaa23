// SPDX-License-Identifier: MIT
// size_class.h - the sizes that small blocks come in.
// Invariant: every size up to kMaxSmallBytes has a class that wastes at most a fifth of a block of
// more than 64 bytes; all sizes are multiples of 16, the powers of two among them.
// Context: any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "nvheap/heap_layout.h"

namespace cr::nvheap {

// 8 classes in steps of 16 up to 128 bytes, then 4 per doubling up to 16 KiB.
inline constexpr uint32_t kSizeClasses = 36;
inline constexpr size_t kMaxSmallBytes = 16 * 1024;

constexpr uint32_t bytes_of_class(uint32_t size_class) {
  if (size_class < 8) return (size_class + 1) * 16;
  const uint32_t base = 128u << ((size_class - 8) / 4);
  return base + ((size_class - 8) % 4 + 1) * (base / 4);
}
constexpr uint32_t compute_class(size_t bytes) {
  if (bytes <= 128) return bytes == 0 ? 0 : static_cast<uint32_t>((bytes - 1) / 16);
  const auto last = static_cast<uint32_t>(bytes - 1);
  const auto log2 = static_cast<uint32_t>(31 - __builtin_clz(last));
  return 8 + (log2 - 7) * 4 + ((last >> (log2 - 2)) & 3);
}
static_assert(bytes_of_class(kSizeClasses - 1) == kMaxSmallBytes);
static_assert(compute_class(kMaxSmallBytes) == kSizeClasses - 1);

inline constexpr auto kClassTable = [] {  // in steps of 16 bytes
  std::array<uint8_t, kMaxSmallBytes / 16 + 1> table{};
  for (size_t i = 0; i < table.size(); i++) {
    table[i] = static_cast<uint8_t>(compute_class(i * 16));
  }
  return table;
}();

// bytes <= kMaxSmallBytes
inline uint32_t class_of_bytes(size_t bytes) { return kClassTable[(bytes + 15) / 16]; }

constexpr uint32_t blocks_of_class(uint32_t size_class) {
  const auto fit = static_cast<uint32_t>(kChunkBytes / bytes_of_class(size_class));
  return fit < kMaxBlocksPerSlab ? fit : kMaxBlocksPerSlab;
}

struct ClassInfo {
  uint32_t bytes;
  uint32_t reciprocal;  // ceil(2^32 / bytes): offset * reciprocal >> 32 is the block's number
  uint32_t blocks;
  uint32_t spare_blocks;  // so many must be free before the slab is used again (see ThreadHeap)
};
inline constexpr auto kClasses = [] {
  std::array<ClassInfo, kSizeClasses> all{};
  for (uint32_t c = 0; c < kSizeClasses; c++) {
    const uint32_t bytes = bytes_of_class(c), blocks = blocks_of_class(c);
    all[c] = {bytes, static_cast<uint32_t>(((uint64_t{1} << 32) + bytes - 1) / bytes), blocks,
              blocks / 16 > 0 ? blocks / 16 : 1};
  }
  return all;
}();

}  // namespace cr::nvheap
