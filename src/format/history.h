// SPDX-License-Identifier: MIT
// history.h - the file `history` of an image directory: a ring of the last checkpoints.
// Invariant: fixed width, little endian, explicit padding; each record has its own checksum and
// says its own number, so that any record can be lost without harm to the others. The spec is
// docs/format/history.md.
// Context: N, H, S, R.
#pragma once

#include "format/image.h"

namespace cr::format {

inline constexpr char kHistoryFileName[] = "history";
inline constexpr char kHistoryMagic[8] = {'C', 'R', 'H', 'I', 'S', 'T', 'O', '\n'};
inline constexpr uint32_t kHistoryVersion = 2;
inline constexpr uint32_t kHistoryCapacity = 1000;

struct HistoryHeader {
  char magic[8];
  uint32_t format_version;
  uint32_t header_bytes;  // sizeof(HistoryHeader)
  uint32_t record_bytes;  // sizeof(HistoryRecord)
  uint32_t capacity;      // slots that follow
  uint8_t reserved[224];
  uint64_t checksum;  // XXH3-64 of the bytes before it
};
CR_ON_DISK(HistoryHeader, 256);

inline constexpr uint32_t kHistoryAutomatic = 1;  // the interval was chosen by measured cost
inline constexpr uint32_t kHistoryQuick = 2;      // the program captured itself

// One attempt. Two lie in a sector and none across two.
struct HistoryRecord {
  uint64_t number;  // of the record, from 0; it is in slot number % capacity
  uint64_t epoch;
  uint64_t sequence;  // of the checkpoint, or the one that failed would have had
  uint64_t attempt;
  uint64_t realtime_ns;    // CLOCK_REALTIME when the attempt began
  uint64_t pause_ns;       // how long the program stood still
  uint64_t whole_ns;       // from its beginning until it was whole, or had failed
  uint64_t precopy_ns;     // copying before the stop
  uint64_t cost_ns;        // what it cost the program (docs/ARCHITECTURE.md)
  uint64_t staged_bytes;   // copied to staging: what had changed
  uint64_t written_bytes;  // to the image
  uint64_t memory_bytes;   // as in the superblock; 0 if it failed
  uint64_t interval_ns;    // of automatic checkpoints, 0: none
  int32_t error_code;      // Errc; 0: whole
  int32_t sys_errno;
  uint32_t overhead_ppm;  // measured over the last checkpoints, millionths of the time
  uint32_t tracker;       // Tracker
  uint32_t level;         // how far it has safely arrived
  uint32_t flags;         // kHistory...
  char error_text[104];   // NUL-terminated
  // From when it was whole until it had got farther (docs/store.md), which is filled in later; 0:
  // it has not, or nobody saw it.
  uint64_t safe_ns;     // other nodes kept it: level 2
  uint64_t flushed_ns;  // it was on the shared file system: level 3
  uint64_t checksum;    // XXH3-64 of the bytes before it
};
CR_ON_DISK(HistoryRecord, 256);

enum HistoryLevel : uint32_t {
  kLevelNone = 0,   // nowhere: it failed
  kLevelCrash = 1,  // the image directory, without waiting for the disk
  kLevelPower = 2,  // the image directory, on stable storage
};

}  // namespace cr::format
