// SPDX-License-Identifier: MIT
// node_messages_reader.h - the reader of what node daemons say to each other on a link; distrusts
// every byte, as a neighbour may be of another version, or broken.
// Invariant: what is given out has its exact length, its numbers are in range, and its texts end.
// Whether it fits what was said before is the caller's question.
// Context: N, H, S, R. Doc: docs/format/wire.md. Fuzzed by tests/fuzz/node_messages_fuzz.cc.
#pragma once

#include "base/base.h"
#include "format/node_messages.h"

namespace cr::format {

// kDamaged: a field has a value that it cannot have.
Result<void> check_message(const PartOffer& m);
Result<void> check_message(const PartAccept& m);
Result<void> check_message(const PartChunk& m);
Result<void> check_message(const PartChunkDone& m);
Result<void> check_message(const PartCommit& m);
Result<void> check_message(const PartCommitted& m);
Result<void> check_message(const PartFailed& m);
Result<void> check_message(const ListParts& m);
Result<void> check_message(const PartEntry& m);
Result<void> check_message(const FetchRows& m);
Result<void> check_message(const Fetched& m);
Result<void> check_message(const RemoveSession& m);
Result<void> check_message(const Removed& m);
Result<void> check_message(const AskSessions& m);
Result<void> check_message(const SessionEntry& m);
Result<void> check_message(const DropParts& m);

inline constexpr Error kWrongMessageSize{Errc::kDamaged, 0, "a message has a wrong length"};

template <typename T>
Result<T> read_message(const uint8_t* bytes, uint64_t size) {
  if (size != sizeof(T)) return kWrongMessageSize;
  T message;
  __builtin_memcpy(&message, bytes, sizeof(message));
  CR_TRYV(check_message(message));
  return message;
}

// A listing. Its entries were checked too; they are not aligned.
template <typename Head, typename Entry>
struct ListView {
  Head head{};
  const uint8_t* entries = nullptr;

  Entry entry(uint32_t i) const {
    Entry e;
    __builtin_memcpy(&e, entries + uint64_t{i} * sizeof(e), sizeof(e));
    return e;
  }
};
using PartListView = ListView<PartList, PartEntry>;
using SessionListView = ListView<SessionList, SessionEntry>;
using NodeStatesView = ListView<NodeStatesMessage, NodeStateRecord>;  // kShareStates and kStates
Result<PartListView> read_part_list(const uint8_t* bytes, uint64_t size);
Result<SessionListView> read_session_list(const uint8_t* bytes, uint64_t size);
Result<NodeStatesView> read_node_states_message(const uint8_t* bytes, uint64_t size);

// The number with which every message begins, of a transfer or of a request; 0 if there is none.
uint64_t number_of_message(const uint8_t* bytes, uint64_t size);

}  // namespace cr::format
