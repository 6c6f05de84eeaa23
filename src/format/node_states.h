// SPDX-License-Identifier: MIT
// node_states.h - which nodes are being taken out of service: the file `nodes` of a store, and the
// records that node daemons send each other.
// Invariant: fixed width, little endian, explicit padding. Of two records of one node the same one
// is the newer for whoever compares them. The spec is docs/format/nodes.md.
// Context: N, H, S, R. Reader: node_states_reader.h.
#pragma once

#include "format/wire.h"

namespace cr::format {

inline constexpr char kNodeStatesFileName[] = "nodes";
inline constexpr char kNodeStatesMagic[8] = {'C', 'R', 'N', 'O', 'D', 'E', 'S', '\n'};
inline constexpr uint32_t kNodeStatesVersion = 1;
inline constexpr uint32_t kMostNodeStates = 65536;

struct NodeStatesHeader {
  char magic[8];
  uint32_t format_version;
  uint32_t header_bytes;  // sizeof(NodeStatesHeader)
  uint32_t record_bytes;  // sizeof(NodeStateRecord)
  uint32_t count;         // records that follow
  uint64_t records_sum;   // XXH3-64 of them
  uint8_t reserved[24];
  uint64_t checksum;  // XXH3-64 of the bytes before it
};
CR_ON_DISK(NodeStatesHeader, 64);

struct NodeStateRecord {
  char node[kWireNameBytes];  // its name, zeros behind
  uint64_t version;           // rises with every change, from 1
  uint64_t realtime_ns;       // CLOCK_REALTIME of the change, where it was asked for
  uint32_t draining;          // 1: it gives its parts away; 0: it takes some again
  uint32_t reserved;
};
CR_ON_DISK(NodeStateRecord, 88);

}  // namespace cr::format
