// SPDX-License-Identifier: MIT
// flush_reader.h - the reader of flushed files; distrusts every byte.
// Invariant: a view is only made of records that lie inside the bytes, with every number in range.
// What needs more than the tail is checked while frames are read: that a slot is in the frame that
// is named for it, and that its page has the right checksum.
// Context: N, H, S, R. Doc: docs/format/flush.md. Fuzzed by tests/fuzz/flush_reader_fuzz.cc.
#pragma once

#include <stdint.h>

#include <span>

#include "base/base.h"
#include "format/flush.h"
#include "format/part_reader.h"

namespace cr::format {

uint64_t flush_header_checksum(const FlushHeader& h);
uint64_t flush_frame_checksum(const FlushFrame& f);

// Checks the first 4096 bytes. Errors: kForeign, kTooNew, kDamaged, kWrongMachine; kNotWhole for an
// empty file. WRITE_LOCK is not looked at: if it is 0, only what names session and node counts.
Result<FlushHeader> read_flush_begin(const uint8_t* file, uint64_t file_bytes);
// The same of a whole file: kNotWhole for WRITE_LOCK = 0. `file_bytes` is the size of the file, of
// which only these 4096 bytes are looked at.
Result<FlushHeader> read_flush_header(const uint8_t* file, uint64_t file_bytes);
// Behind a header that was read.
inline const char* flush_source(const uint8_t* file) {
  return reinterpret_cast<const char*>(file) + sizeof(FlushHeader);
}

// How long the tail is that such a header needs. The header was read by read_flush_header().
uint64_t flush_tail_bytes(const FlushHeader& h);

struct FlushTail {
  DescriptionView description;
  std::span<const FlushFrameRecord> frames;
  std::span<const uint64_t> checks;  // by slot: row_check(), 0: zeros or free
  std::span<const uint32_t> places;  // by slot: the number of a frame, or kFlushNoFrame
};
// The bytes from frames_end on; 8-aligned. The view points into them.
Result<FlushTail> read_flush_tail(const FlushHeader& h, std::span<const uint8_t> tail);

// Checks a frame's first 4096 bytes. left: how many bytes there are, these included.
Result<FlushFrame> read_flush_frame(const uint8_t* frame, uint64_t left, uint64_t number);
// The whole frame: that what is stored has the right checksum.
bool is_frame_good(const FlushFrame& f, const uint8_t* frame);
inline uint64_t flush_frame_bytes(const FlushFrame& f) {
  return sizeof(FlushFrame) + page_ceil(f.stored_bytes);
}

}  // namespace cr::format
