// SPDX-License-Identifier: MIT
// wide_checksum.h - the seam between checksum.cc and the processor: XXH3-64 with wider vectors than
// every processor of the architecture has.
// Invariant: the same value as without. Context: N, H, S, R. Another architecture says no.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace cr::format {

bool has_wide_checksum();
// Only if has_wide_checksum().
uint64_t wide_checksum(const void* data, size_t bytes);

}  // namespace cr::format
