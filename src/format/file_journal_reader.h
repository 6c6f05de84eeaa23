// SPDX-License-Identifier: MIT
// file_journal_reader.h - the reader of the journal's records; distrusts every byte.
// Invariant: a record is only given out if its lengths fit, its strings end, and its checksum is
// right; what lies between two such records is passed over.
// Context: N, H, S, R. Doc: docs/format/files.md. Fuzzed by tests/fuzz/file_journal_fuzz.cc.
#pragma once

#include "base/base.h"
#include "format/file_journal.h"

namespace cr::format {

struct ChangeView {
  FileChange change;
  const char* path;
  const char* target;  // "": none
};

// The first record at or behind *at, which is moved behind it. False: there is none.
bool next_change(const uint8_t* log, uint64_t bytes, uint64_t* at, ChangeView* ret);

// Puts a record together at `out`, with room for kMostChangeBytes. Returns its bytes; 0: a string
// is too long.
uint64_t build_change(FileChange change, const char* path, const char* target, uint8_t* out);

}  // namespace cr::format
