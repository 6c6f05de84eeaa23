// SPDX-License-Identifier: MIT
// node_messages_fuzz.cc - the reader of what node daemons say to each other, with hostile bytes.
// Invariant under test: nothing outside the message is read, and what is given out keeps what
// node_messages_reader.h promises: texts end, numbers are in range, nothing wraps around.
//
// Input: one message. Each reader gets it, and cut or filled with zeros to the length it wants.
#include <string.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "format/node_messages_reader.h"

namespace {

using namespace cr::format;

uint64_t g_sum;  // so that the compiler cannot leave out the reading

void check(bool holds) {
  if (!holds) abort();
}

template <uint64_t N>
bool ends(const char (&text)[N]) {
  return strnlen(text, N) < N;
}

template <typename T>
void expect_parts(const T& m) {
  check(m.kind <= kProtectRs && m.data_parts > 0);
  check(uint64_t{m.data_parts} + m.parity_parts <= kMostPartHolders);
  check(m.holder < m.data_parts + m.parity_parts);
  check(ends(m.name) && ends(m.origin) && m.rows <= kMostPartRows);
}

void expect_region(const WireRegion& r) { check(r.bytes > 0 && r.address + r.bytes > r.address); }

void expect(const PartOffer& m) { expect_parts(m); }
void expect(const PartEntry& m) {
  expect_parts(m);
  check(m.slots <= kMostPartRows && m.description_bytes <= kMostDescriptionBytes);
}
void expect(const PartAccept& m) {
  expect_region(m.region);
  check(m.windows > 0 && m.windows <= kMostWindows && m.has_base <= 1);
  check(m.windows * kChunkBytes <= m.region.bytes);
}
void expect(const PartChunk& m) {
  check(m.seal.bytes > 0 && m.seal.bytes <= kChunkBytes && m.window < kMostWindows);
  check(m.kind == kChunkOfRows ? m.rows <= kChunkRows && m.seal.bytes >= kChunkPagesOff
                               : m.kind == kChunkOfDescription && m.rows == 0);
}
void expect(const PartChunkDone& m) { check(m.window < kMostWindows || m.window == kNoWindow); }
void expect(const PartCommit& m) {
  check(m.slots <= kMostPartRows && m.rows <= kMostPartRows);
  check(m.description_bytes <= kMostDescriptionBytes);
}
void expect(const PartCommitted& m) { g_sum += m.bytes_written; }
void expect(const PartFailed& m) {
  check(ends(m.text) && m.code <= static_cast<uint32_t>(cr::Errc::kLast));
}
void expect(const ListParts& m) { check(m.one_session <= 1); }
void expect(const FetchRows& m) {
  expect_region(m.region);
  check(m.kind == kChunkOfRows || m.kind == kChunkOfDescription);
  check(m.count > 0 && m.window_off < m.region.bytes && m.holder < kMostPartHolders);
}
void expect(const Fetched& m) {
  check(m.code <= static_cast<uint32_t>(cr::Errc::kLast));
  check(m.code != 0 || (m.seal.bytes > 0 && m.seal.bytes <= kMostBlockBytes));
}
void expect(const RemoveSession& m) { g_sum += m.uid; }
void expect(const AskSessions& m) { check(ends(m.node) && m.reserved == 0); }
void expect(const SessionEntry& m) {
  check(ends(m.name) && ends(m.text) && m.parts <= m.of && m.of <= kMostPartHolders);
  check(m.flags <= kSessionAllFlags);
}
void expect(const DropParts& m) { check(m.holder < kMostPartHolders); }
void expect(const Removed& m) { check(m.code <= static_cast<uint32_t>(cr::Errc::kLast)); }

template <typename T>
void read(const uint8_t* data, size_t size) {
  if (const auto m = read_message<T>(data, size)) {
    check(size == sizeof(T));
    expect(*m);
  }
  // A message of just this length, in memory of just this length.
  std::vector<uint8_t> fitted(sizeof(T));
  memcpy(fitted.data(), data, std::min(size, sizeof(T)));
  if (const auto m = read_message<T>(fitted.data(), fitted.size())) expect(*m);
}

void read_list(const uint8_t* data, size_t size) {
  const auto list = read_part_list(data, size);
  if (!list) return;
  check(list->head.entries <= kMostEntries && list->head.more <= 1);
  check(list->entries + list->head.entries * sizeof(PartEntry) == data + size);
  for (uint32_t i = 0; i < list->head.entries; i++) expect(list->entry(i));
}

void read_states(const uint8_t* data, size_t size) {
  const auto states = read_node_states_message(data, size);
  if (!states) return;
  check(states->head.count <= kMostStatesAtOnce && states->head.more <= 1);
  check(states->entries + states->head.count * sizeof(NodeStateRecord) == data + size);
  for (uint32_t i = 0; i < states->head.count; i++) {
    const NodeStateRecord r = states->entry(i);
    check(ends(r.node) && r.node[0] != '\0' && r.version != 0 && r.draining <= 1);
  }
}

void read_sessions(const uint8_t* data, size_t size) {
  const auto list = read_session_list(data, size);
  if (!list) return;
  check(list->head.entries <= kMostSessionEntries && list->head.more <= 1);
  check(list->entries + list->head.entries * sizeof(SessionEntry) == data + size);
  for (uint32_t i = 0; i < list->head.entries; i++) expect(list->entry(i));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::vector<uint8_t> message(data, data + size);
  message.shrink_to_fit();
  const uint8_t* m = message.data();
  read<PartOffer>(m, size);
  read<PartAccept>(m, size);
  read<PartChunk>(m, size);
  read<PartChunkDone>(m, size);
  read<PartCommit>(m, size);
  read<PartCommitted>(m, size);
  read<PartFailed>(m, size);
  read<ListParts>(m, size);
  read<PartEntry>(m, size);
  read<FetchRows>(m, size);
  read<Fetched>(m, size);
  read<RemoveSession>(m, size);
  read<Removed>(m, size);
  read<AskSessions>(m, size);
  read<SessionEntry>(m, size);
  read<DropParts>(m, size);
  read_list(m, size);
  read_states(m, size);
  read_sessions(m, size);
  g_sum += number_of_message(m, size);
  return 0;
}
