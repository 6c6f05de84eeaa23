// SPDX-License-Identifier: MIT
// removed.h - which sessions' parts were removed by request: the file `removed` of a store.
// Invariant: fixed width, little endian, explicit padding. The spec is docs/format/removed.md.
// Context: N, H, S, R. Reader: removed_reader.h.
#pragma once

#include "format/part.h"

namespace cr::format {

inline constexpr char kRemovedFileName[] = "removed";
inline constexpr char kRemovedMagic[8] = {'C', 'R', 'R', 'E', 'M', 'O', 'V', '\n'};
inline constexpr uint32_t kRemovedVersion = 1;
inline constexpr uint32_t kMostRemoved = 4096;

struct RemovedHeader {
  char magic[8];
  uint32_t format_version;
  uint32_t header_bytes;  // sizeof(RemovedHeader)
  uint32_t record_bytes;  // sizeof(RemovedRecord)
  uint32_t count;         // records that follow
  uint64_t records_sum;   // XXH3-64 of them
  uint8_t reserved[24];
  uint64_t checksum;  // XXH3-64 of the bytes before it
};
CR_ON_DISK(RemovedHeader, 64);

struct RemovedRecord {
  uint8_t session_id[16];
  Triple newest;         // the newest checkpoint that was removed
  uint64_t realtime_ns;  // CLOCK_REALTIME of the request
};
CR_ON_DISK(RemovedRecord, 48);

}  // namespace cr::format
