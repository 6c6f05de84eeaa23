// SPDX-License-Identifier: MIT
// node_states_reader.h - the reader of records about nodes, from a file or from a message;
// distrusts every byte.
// Invariant: a record that is given out has a name, a version, a state, and zeros where they must
// be. Context: N, H, S, R. Fuzzed by tests/fuzz/node_states_fuzz.cc.
#pragma once

#include <span>

#include "base/base.h"
#include "format/node_states.h"

namespace cr::format {

// The whole file; the bytes must be 8-aligned. Errors: kForeign, kTooNew, kDamaged.
Result<std::span<const NodeStateRecord>> read_node_states(const uint8_t* file, uint64_t file_bytes);
// false: a field has a value that it must not have.
bool is_node_state(const NodeStateRecord& record);
// Is `a` the one to be kept? Of equal ones neither is.
bool is_newer_state(const NodeStateRecord& a, const NodeStateRecord& b);
// Fills in what a header says of these records.
void seal(NodeStatesHeader* header, std::span<const NodeStateRecord> records);

}  // namespace cr::format
