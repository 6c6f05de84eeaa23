// SPDX-License-Identifier: MIT
// flush.h - every struct of a flushed file: one checkpoint of a session, whole in one file, on a
// file system that all nodes share.
// Invariant: fixed width, little endian, explicit padding; the first 16 bytes never change.
// Context: N, H, S, R. Doc: docs/format/flush.md. Reader: flush_reader.h.
//
// A flushed file is: header and source, frames one behind the other, the tail. A frame holds pages
// of up to 256 slots; a slot that is in several frames counts in the one that the tail names.
#pragma once

#include "format/part.h"

namespace cr::format {

inline constexpr char kFlushMagic[8] = {'C', 'R', 'F', 'L', 'U', 'S', 'H', '\n'};
inline constexpr char kFlushFrameMagic[8] = {'C', 'R', 'F', 'R', 'A', 'M', 'E', '\n'};
inline constexpr uint32_t kFlushVersion = 1;
inline constexpr uint64_t kFlushFramesOff = 4096;
inline constexpr uint64_t kFlushSourceBytes = 3584;
inline constexpr uint32_t kMostFramePages = 256;
inline constexpr uint32_t kMostFrameRuns = 252;
inline constexpr uint64_t kMostFlushFrames = 0xffffffff;  // their numbers are below
inline constexpr uint32_t kFlushNoFrame = 0xffffffff;     // of a slot: it is zeros or free

inline constexpr uint32_t kFlushHasZstd = 1;  // FlushHeader::flags: some frame is compressed

struct FlushHeader {
  char magic[8];
  uint32_t format_version;
  uint32_t header_bytes;  // sizeof(FlushHeader)
  uint32_t machine;
  uint32_t page_bytes;
  uint64_t feature_compat;
  uint64_t feature_ro_compat;
  uint64_t feature_incompat;
  uint64_t write_lock;  // WRITE_LOCK: 0 while the file is being written, 1 when it is whole
  Triple triple;
  uint64_t realtime_ns;  // CLOCK_REALTIME of the program's stop
  uint8_t session_id[16];
  uint32_t uid;           // whose session it is
  uint32_t flags;         // kFlush...
  uint32_t kind;          // ProtectionKind: how the session was protected besides, as in parts
  uint32_t data_parts;    // K
  uint32_t parity_parts;  // M
  uint32_t reserved0;
  uint64_t slots;
  uint64_t frames;
  uint64_t frames_end;  // where the tail begins
  uint64_t description_bytes;
  uint64_t description_xxh3;
  uint64_t index_xxh3;
  uint64_t checks_xxh3;
  uint64_t places_xxh3;
  uint64_t image_bytes;       // of all images of the session; for people
  uint64_t source_xxh3;       // of the kFlushSourceBytes behind the header
  char name[kPartNameBytes];  // of the session, NUL-terminated
  char node[kPartNameBytes];  // that wrote the file, NUL-terminated
  uint8_t reserved[168];
  uint64_t checksum;  // XXH3-64 of the bytes before it
};
CR_ON_DISK(FlushHeader, 512);
static_assert(offsetof(FlushHeader, write_lock) == 48);
static_assert(offsetof(FlushHeader, slots) == 128);
static_assert(offsetof(FlushHeader, checksum) == 504);
static_assert(sizeof(FlushHeader) + kFlushSourceBytes == kFlushFramesOff);

enum FlushEncoding : uint32_t {
  kFlushRaw = 0,
  kFlushZstd = 1,  // one frame of https://www.rfc-editor.org/rfc/rfc8878
};

struct FlushRun {
  uint64_t slot;
  uint32_t pages;
  uint32_t reserved;
};
CR_ON_DISK(FlushRun, 16);

// At the beginning of a frame; the pages follow, in the order of the runs, then zeros up to a page.
struct FlushFrame {
  char magic[8];
  uint32_t number;  // counts the file's frames from 0
  uint32_t pages;
  uint32_t run_count;
  uint32_t encoding;      // FlushEncoding
  uint64_t stored_bytes;  // of the pages, as they are stored
  uint64_t stored_xxh3;   // of these bytes and the zeros behind them
  uint64_t reserved0;
  FlushRun runs[kMostFrameRuns];  // ascending; zeros behind the last
  uint64_t reserved1;
  uint64_t checksum;  // XXH3-64 of the bytes before it
};
CR_ON_DISK(FlushFrame, 4096);
static_assert(offsetof(FlushFrame, runs) == 48);
static_assert(offsetof(FlushFrame, checksum) == 4088);

// The tail, without gaps: the description (part.h; it names no holders), this for each frame, the
// check of each slot (8 bytes each), the number of the frame that each slot is in (4 bytes each).
struct FlushFrameRecord {
  uint64_t off, bytes;  // FlushFrame and zeros included
};
CR_ON_DISK(FlushFrameRecord, 16);

}  // namespace cr::format
