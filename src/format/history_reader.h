// SPDX-License-Identifier: MIT
// history_reader.h - the reader of history files; distrusts every byte.
// Invariant: a record is only given out if its checksum is right, it lies in its own slot, and its
// text ends; a bad one counts as missing.
// Context: N, H, S, R. Doc: docs/format/history.md. Fuzzed by tests/fuzz/history_reader_fuzz.cc.
#pragma once

#include "base/base.h"
#include "format/history.h"

namespace cr::format {

// Errors: kForeign, kTooNew, kDamaged; kNotWhole for an empty file.
Result<HistoryHeader> read_history_header(const uint8_t* file, uint64_t file_bytes);

// The record in a slot. false: there is none, or it is damaged.
bool read_history_record(const uint8_t* file, uint64_t file_bytes, uint32_t slot,
                         HistoryRecord* ret);

// Does it say what a record may say? Not in which slot it belongs.
bool is_right(const HistoryRecord& record);

// Makes the checksums right; for writers.
void seal(HistoryHeader* header);
void seal(HistoryRecord* record);

}  // namespace cr::format
