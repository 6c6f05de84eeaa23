// SPDX-License-Identifier: MIT
// flush_reader.cc - see flush_reader.h. Invariant: as there; no arithmetic on a field of the file
// before it was compared with what is left of the file. Context: N, H, S, R.
#include "format/flush_reader.h"

#include "format/checksum.h"

namespace cr::format {
namespace {

Error damaged(const char* what) { return {Errc::kDamaged, 0, what}; }

bool ends(const char* text, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; i++) {
    if (text[i] == '\0') return true;
  }
  return false;
}

Result<void> check_runs(const FlushFrame& f) {
  if (f.pages == 0 || f.pages > kMostFramePages || f.run_count == 0 ||
      f.run_count > kMostFrameRuns) {
    return damaged("a frame's numbers are out of range");
  }
  uint64_t pages = 0, end = 0;
  for (uint32_t i = 0; i < f.run_count; i++) {
    const FlushRun& r = f.runs[i];
    if (r.pages == 0 || r.pages > kMostFramePages || r.slot < end || r.slot >= kMostPartRows) {
      return damaged("a frame's slots are out of range");
    }
    end = r.slot + r.pages;
    pages += r.pages;
  }
  if (pages != f.pages || end > kMostPartRows) return damaged("a frame's slots are out of range");
  return {};
}

Result<void> check_slots(const FlushTail& t) {
  for (uint64_t i = 0; i < t.places.size(); i++) {
    const bool none = t.places[i] == kFlushNoFrame;
    if (none != (t.checks[i] == 0) || (!none && t.places[i] >= t.frames.size())) {
      return damaged("a slot is in no frame");
    }
  }
  return {};
}

}  // namespace

uint64_t flush_header_checksum(const FlushHeader& h) {
  return checksum(&h, offsetof(FlushHeader, checksum));
}

uint64_t flush_frame_checksum(const FlushFrame& f) {
  return checksum(&f, offsetof(FlushFrame, checksum));
}

Result<FlushHeader> read_flush_begin(const uint8_t* file, uint64_t file_bytes) {
  if (file_bytes == 0) return Error{Errc::kNotWhole, 0, "the file is empty"};
  FlushHeader h;
  if (file_bytes < 16 || __builtin_memcmp(file, kFlushMagic, sizeof(kFlushMagic)) != 0) {
    return Error{Errc::kForeign, 0, "it is no flushed checkpoint"};
  }
  uint32_t version;
  __builtin_memcpy(&version, file + 8, sizeof(version));
  if (version > kFlushVersion) return Error{Errc::kTooNew, 0, "its format is newer"};
  if (file_bytes < kFlushFramesOff) return damaged("the file is shorter than its header");
  __builtin_memcpy(&h, file, sizeof(h));
  if (h.format_version == 0 || h.header_bytes != sizeof(h) ||
      h.checksum != flush_header_checksum(h)) {
    return damaged("the header's checksum is wrong");
  }
  if (h.feature_incompat != 0) return Error{Errc::kTooNew, 0, "it has features that are newer"};
  if (h.machine != kMachineX86_64 || h.page_bytes != kPageSize) {
    return Error{Errc::kWrongMachine, 0, "it is of another machine"};
  }
  const char* source = flush_source(file);
  if (checksum(source, kFlushSourceBytes) != h.source_xxh3 || !ends(source, kFlushSourceBytes) ||
      !ends(h.name, sizeof(h.name)) || !ends(h.node, sizeof(h.node))) {
    return damaged("a name in it is damaged");
  }
  const uint64_t parts = uint64_t{h.data_parts} + h.parity_parts;
  if (h.kind > kProtectRs || h.data_parts == 0 || parts > kMostPartHolders) {
    return damaged("the kind of protection is out of range");
  }
  return h;
}

Result<FlushHeader> read_flush_header(const uint8_t* file, uint64_t file_bytes) {
  CR_TRY(const FlushHeader h, read_flush_begin(file, file_bytes));
  if (h.write_lock != 1) return Error{Errc::kNotWhole, 0, "it was being written"};
  if (h.slots > kMostPartRows || h.frames > kMostFlushFrames ||
      h.description_bytes > kMostDescriptionBytes || h.description_bytes % 8 != 0) {
    return damaged("a size is out of range");
  }
  if (h.frames_end < kFlushFramesOff || h.frames_end > file_bytes ||
      flush_tail_bytes(h) != file_bytes - h.frames_end) {
    return damaged("the file's size is not what its header says");
  }
  return h;
}

uint64_t flush_tail_bytes(const FlushHeader& h) {
  return h.description_bytes + h.frames * sizeof(FlushFrameRecord) +
         h.slots * (sizeof(uint64_t) + sizeof(uint32_t));
}

Result<FlushTail> read_flush_tail(const FlushHeader& h, std::span<const uint8_t> tail) {
  if (tail.size() != flush_tail_bytes(h)) return damaged("the tail is too short");
  const uint8_t* at = tail.data();
  const std::span<const uint8_t> description{at, h.description_bytes};
  FlushTail t;
  at += description.size();
  t.frames = {reinterpret_cast<const FlushFrameRecord*>(at), h.frames};
  at += t.frames.size_bytes();
  t.checks = {reinterpret_cast<const uint64_t*>(at), h.slots};
  at += t.checks.size_bytes();
  t.places = {reinterpret_cast<const uint32_t*>(at), h.slots};
  if (checksum(description.data(), description.size()) != h.description_xxh3) {
    return damaged("the description's checksum is wrong");
  }
  if (checksum(t.frames.data(), t.frames.size_bytes()) != h.index_xxh3) {
    return damaged("the checksum of the list of frames is wrong");
  }
  if (checksum(t.checks.data(), t.checks.size_bytes()) != h.checks_xxh3 ||
      checksum(t.places.data(), t.places.size_bytes()) != h.places_xxh3) {
    return damaged("the checksum of the table of slots is wrong");
  }
  CR_TRY(t.description, read_description(description, h.slots));
  uint64_t end = kFlushFramesOff;
  for (const FlushFrameRecord& f : t.frames) {
    if (f.off != end || f.bytes <= sizeof(FlushFrame) || f.bytes % kPageSize != 0 ||
        f.bytes > sizeof(FlushFrame) + kMostFramePages * kPageSize ||
        f.bytes > h.frames_end - end) {
      return damaged("the frames do not follow each other");
    }
    end += f.bytes;
  }
  if (end != h.frames_end) return damaged("the frames do not end where the tail begins");
  CR_TRYV(check_slots(t));
  return t;
}

Result<FlushFrame> read_flush_frame(const uint8_t* frame, uint64_t left, uint64_t number) {
  FlushFrame f;
  if (left < sizeof(f) ||
      __builtin_memcmp(frame, kFlushFrameMagic, sizeof(kFlushFrameMagic)) != 0) {
    return damaged("there is no frame");
  }
  __builtin_memcpy(&f, frame, sizeof(f));
  if (f.checksum != flush_frame_checksum(f)) return damaged("a frame's checksum is wrong");
  if (f.number != number) return damaged("a frame is not in its place");
  CR_TRYV(check_runs(f));
  const uint64_t bytes = f.pages * kPageSize;
  const bool right = f.encoding == kFlushRaw    ? f.stored_bytes == bytes
                     : f.encoding == kFlushZstd ? f.stored_bytes > 0 && f.stored_bytes < bytes
                                                : false;
  if (!right) return damaged("a frame is stored in an unknown way");
  if (page_ceil(f.stored_bytes) > left - sizeof(f)) return damaged("a frame is cut off");
  return f;
}

bool is_frame_good(const FlushFrame& f, const uint8_t* frame) {
  return checksum(frame + sizeof(FlushFrame), page_ceil(f.stored_bytes)) == f.stored_xxh3;
}

}  // namespace cr::format
