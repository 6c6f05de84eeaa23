// SPDX-License-Identifier: MIT
// checksum.h - XXH3-64, the checksum of every durable byte (https://xxhash.com, package libxxhash).
// Invariant: the same value on every machine. Context: N, H, S, R.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "format/image.h"

namespace cr::format {

uint64_t checksum(const void* data, size_t bytes);

inline uint64_t superblock_checksum(const SuperBlock& sb) {
  return checksum(&sb, offsetof(SuperBlock, checksum));
}

}  // namespace cr::format
