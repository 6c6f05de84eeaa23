// SPDX-License-Identifier: MIT
// node_states_reader.cc - see node_states_reader.h. Invariant: as there. Context: N, H, S, R.
#include "format/node_states_reader.h"

#include "format/checksum.h"
#include "format/wire_reader.h"

namespace cr::format {

bool is_node_state(const NodeStateRecord& r) {
  uint64_t length = 0;
  while (length < kWireNameBytes && r.node[length] != 0) length++;
  if (!is_wire_name(r.node, length)) return false;
  for (uint64_t i = length; i < kWireNameBytes; i++) {
    if (r.node[i] != 0) return false;
  }
  return r.version != 0 && r.draining <= 1 && r.reserved == 0;
}

bool is_newer_state(const NodeStateRecord& a, const NodeStateRecord& b) {
  if (a.version != b.version) return a.version > b.version;
  if (a.realtime_ns != b.realtime_ns) return a.realtime_ns > b.realtime_ns;
  return a.draining > b.draining;
}

Result<std::span<const NodeStateRecord>> read_node_states(const uint8_t* file,
                                                          uint64_t file_bytes) {
  const Error foreign{Errc::kForeign, 0, "not a list of nodes' states"};
  const Error damaged{Errc::kDamaged, 0, "the list of nodes' states is damaged"};
  NodeStatesHeader h{};
  constexpr uint64_t kFirst = 16;  // magic, version, length: the same in every version
  if (file_bytes < kFirst) return foreign;
  __builtin_memcpy(&h, file, file_bytes < sizeof(h) ? file_bytes : sizeof(h));
  if (__builtin_memcmp(h.magic, kNodeStatesMagic, sizeof(h.magic)) != 0) return foreign;
  if (h.format_version > kNodeStatesVersion) {
    return Error{Errc::kTooNew, 0, "the list of nodes' states was written by a later version"};
  }
  if (file_bytes < sizeof(h) || h.format_version == 0 || h.header_bytes != sizeof(h) ||
      h.record_bytes != sizeof(NodeStateRecord) || h.count > kMostNodeStates ||
      file_bytes != sizeof(h) + uint64_t{h.count} * sizeof(NodeStateRecord) ||
      h.checksum != checksum(&h, offsetof(NodeStatesHeader, checksum))) {
    return damaged;
  }
  const std::span<const NodeStateRecord> records{
      reinterpret_cast<const NodeStateRecord*>(file + sizeof(h)), h.count};
  if (h.records_sum != checksum(records.data(), records.size_bytes())) return damaged;
  for (const NodeStateRecord& r : records) {
    if (!is_node_state(r)) return damaged;
  }
  return records;
}

void seal(NodeStatesHeader* header, std::span<const NodeStateRecord> records) {
  *header = {};
  __builtin_memcpy(header->magic, kNodeStatesMagic, sizeof(header->magic));
  header->format_version = kNodeStatesVersion;
  header->header_bytes = sizeof(*header);
  header->record_bytes = sizeof(NodeStateRecord);
  header->count = static_cast<uint32_t>(records.size());
  header->records_sum = checksum(records.data(), records.size_bytes());
  header->checksum = checksum(header, offsetof(NodeStatesHeader, checksum));
}

}  // namespace cr::format
