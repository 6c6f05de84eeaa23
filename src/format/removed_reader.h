// SPDX-License-Identifier: MIT
// removed_reader.h - the reader of the file of removed sessions; distrusts every byte.
// Invariant: a record that is given out names a checkpoint, and no session has two.
// Context: N, H, S, R. Fuzzed by tests/fuzz/removed_fuzz.cc.
#pragma once

#include <span>

#include "base/base.h"
#include "format/removed.h"

namespace cr::format {

// The whole file; the bytes must be 8-aligned. Errors: kForeign, kTooNew, kDamaged.
Result<std::span<const RemovedRecord>> read_removed(const uint8_t* file, uint64_t file_bytes);
// Fills in what a header says of these records, which must be in the order of their sessions.
void seal(RemovedHeader* header, std::span<const RemovedRecord> records);

}  // namespace cr::format
