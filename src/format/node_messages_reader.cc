// SPDX-License-Identifier: MIT
// node_messages_reader.cc - see node_messages_reader.h. Invariant: as there. Context: N, H, S, R.
#include "format/node_messages_reader.h"

#include "format/node_states_reader.h"
#include "format/wire_reader.h"

namespace cr::format {
namespace {

constexpr Error kWrongField{Errc::kDamaged, 0, "a field of a message has a wrong value"};

template <uint64_t N>
bool ends(const char (&text)[N]) {
  for (const char c : text) {
    if (c == '\0') return true;
  }
  return false;
}

Result<void> expect(bool holds) {
  if (!holds) return kWrongField;
  return {};
}

bool is_code(uint32_t code) { return code <= static_cast<uint32_t>(Errc::kLast); }

template <typename T>
bool parts_fit(const T& m) {
  return m.kind <= kProtectRs && m.data_parts > 0 && m.data_parts <= kMostPartHolders &&
         m.parity_parts <= kMostPartHolders - m.data_parts &&
         m.holder < m.data_parts + m.parity_parts && ends(m.name) && ends(m.origin);
}

Result<void> check_region(const WireRegion& region) {
  CR_TRYV(read_region(reinterpret_cast<const uint8_t*>(&region), sizeof(region)));
  return {};
}

Result<void> check_seal(const BlockSeal& seal) {
  CR_TRYV(read_block_seal(reinterpret_cast<const uint8_t*>(&seal), sizeof(seal)));
  return {};
}

}  // namespace

Result<void> check_message(const PartOffer& m) {
  return expect(parts_fit(m) && m.rows <= kMostPartRows && m.reserved == 0);
}

Result<void> check_message(const PartAccept& m) {
  CR_TRYV(check_region(m.region));
  return expect(m.windows > 0 && m.windows <= kMostWindows && m.has_base <= 1 &&
                m.region.bytes >= m.windows * kChunkBytes);
}

Result<void> check_message(const PartChunk& m) {
  CR_TRYV(check_seal(m.seal));
  if (m.window >= kMostWindows || m.seal.bytes > kChunkBytes || m.reserved != 0) return kWrongField;
  if (m.kind == kChunkOfRows) {
    return expect(m.rows <= kChunkRows && m.off == 0 && m.seal.bytes >= kChunkPagesOff);
  }
  return expect(m.kind == kChunkOfDescription && m.rows == 0 && m.off <= kMostDescriptionBytes);
}

Result<void> check_message(const PartChunkDone& m) {
  return expect((m.window < kMostWindows || m.window == kNoWindow) && m.reserved == 0);
}

Result<void> check_message(const PartCommit& m) {
  return expect(m.slots <= kMostPartRows && m.rows <= kMostPartRows &&
                m.description_bytes <= kMostDescriptionBytes);
}

Result<void> check_message(const PartCommitted&) { return {}; }

Result<void> check_message(const PartFailed& m) { return expect(is_code(m.code) && ends(m.text)); }

Result<void> check_message(const ListParts& m) {
  return expect(m.one_session <= 1 && m.reserved == 0 && m.reserved1 == 0);
}

Result<void> check_message(const PartEntry& m) {
  return expect(parts_fit(m) && m.slots <= kMostPartRows && m.rows <= kMostPartRows &&
                m.description_bytes <= kMostDescriptionBytes && m.reserved == 0);
}

Result<void> check_message(const FetchRows& m) {
  CR_TRYV(check_region(m.region));
  return expect((m.kind == kChunkOfRows || m.kind == kChunkOfDescription) &&
                m.holder < kMostPartHolders && m.count > 0 && m.window_off < m.region.bytes);
}

Result<void> check_message(const Fetched& m) {
  if (m.code != 0) return expect(is_code(m.code));
  return check_seal(m.seal);
}

Result<void> check_message(const RemoveSession& m) { return expect(m.reserved == 0); }

Result<void> check_message(const Removed& m) { return expect(is_code(m.code)); }

// A node that is asked about, or nobody.
Result<void> check_message(const AskSessions& m) {
  uint64_t length = 0;
  while (length < kWireNameBytes && m.node[length] != '\0') length++;
  return expect((length == 0 || is_wire_name(m.node, length)) && m.reserved == 0);
}

Result<void> check_message(const SessionEntry& m) {
  return expect(m.flags <= kSessionAllFlags && m.parts <= m.of && m.of <= kMostPartHolders &&
                ends(m.name) && ends(m.text) && m.reserved == 0);
}

Result<void> check_message(const DropParts& m) {
  return expect(m.holder < kMostPartHolders && m.reserved == 0);
}

namespace {

Result<void> check_message(const NodeStateRecord& r) { return expect(is_node_state(r)); }

template <typename Head, typename Entry>
Result<ListView<Head, Entry>> read_list(const uint8_t* bytes, uint64_t size,
                                        uint32_t Head::*entries, uint32_t most) {
  ListView<Head, Entry> v;
  if (size < sizeof(v.head)) return kWrongMessageSize;
  __builtin_memcpy(&v.head, bytes, sizeof(v.head));
  const uint32_t count = v.head.*entries;
  if (count > most || v.head.more > 1) return kWrongField;
  if (size != sizeof(v.head) + count * sizeof(Entry)) return kWrongMessageSize;
  v.entries = bytes + sizeof(v.head);
  for (uint32_t i = 0; i < count; i++) CR_TRYV(check_message(v.entry(i)));
  return v;
}

}  // namespace

Result<PartListView> read_part_list(const uint8_t* bytes, uint64_t size) {
  return read_list<PartList, PartEntry>(bytes, size, &PartList::entries, kMostEntries);
}

Result<SessionListView> read_session_list(const uint8_t* bytes, uint64_t size) {
  return read_list<SessionList, SessionEntry>(bytes, size, &SessionList::entries,
                                              kMostSessionEntries);
}

Result<NodeStatesView> read_node_states_message(const uint8_t* bytes, uint64_t size) {
  CR_TRY(NodeStatesView v, (read_list<NodeStatesMessage, NodeStateRecord>(
                               bytes, size, &NodeStatesMessage::count, kMostStatesAtOnce)));
  if (v.head.reserved != 0) return kWrongField;
  return v;
}

uint64_t number_of_message(const uint8_t* bytes, uint64_t size) {
  uint64_t number = 0;
  if (size >= sizeof(number)) __builtin_memcpy(&number, bytes, sizeof(number));
  return number;
}

}  // namespace cr::format
