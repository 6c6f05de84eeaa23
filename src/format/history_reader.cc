// SPDX-License-Identifier: MIT
// history_reader.cc - see history_reader.h. Invariant: as there. Context: N, H, S, R.
#include "format/history_reader.h"

#include "format/checksum.h"

namespace cr::format {

Result<HistoryHeader> read_history_header(const uint8_t* file, uint64_t file_bytes) {
  HistoryHeader h{};
  if (file_bytes == 0) return Error{Errc::kNotWhole, 0, "the history is empty"};
  constexpr uint64_t kFirst = 16;  // magic, version, length: the same in every version
  if (file_bytes < kFirst) return Error{Errc::kForeign, 0, "not a history of checkpoints"};
  __builtin_memcpy(&h, file, file_bytes < sizeof(h) ? file_bytes : sizeof(h));
  if (__builtin_memcmp(h.magic, kHistoryMagic, sizeof(h.magic)) != 0) {
    return Error{Errc::kForeign, 0, "not a history of checkpoints"};
  }
  if (h.format_version > kHistoryVersion) {
    return Error{Errc::kTooNew, 0, "the history was written by a later version"};
  }
  if (file_bytes < sizeof(h) || h.format_version == 0 || h.header_bytes != sizeof(h) ||
      h.record_bytes != sizeof(HistoryRecord) || h.capacity != kHistoryCapacity ||
      h.checksum != checksum(&h, offsetof(HistoryHeader, checksum))) {
    return Error{Errc::kDamaged, 0, "the history's header is damaged"};
  }
  return h;
}

bool read_history_record(const uint8_t* file, uint64_t file_bytes, uint32_t slot,
                         HistoryRecord* ret) {
  if (slot >= kHistoryCapacity) return false;
  const uint64_t off = sizeof(HistoryHeader) + uint64_t{slot} * sizeof(HistoryRecord);
  if (off > file_bytes || file_bytes - off < sizeof(HistoryRecord)) return false;
  HistoryRecord r;
  __builtin_memcpy(&r, file + off, sizeof(r));
  if (r.number % kHistoryCapacity != slot || !is_right(r)) return false;
  *ret = r;
  return true;
}

bool is_right(const HistoryRecord& r) {
  return r.checksum == checksum(&r, offsetof(HistoryRecord, checksum)) &&
         r.error_text[sizeof(r.error_text) - 1] == 0 &&
         (r.error_code == 0 || (r.safe_ns == 0 && r.flushed_ns == 0));
}

void seal(HistoryHeader* header) {
  header->checksum = checksum(header, offsetof(HistoryHeader, checksum));
}

void seal(HistoryRecord* record) {
  record->checksum = checksum(record, offsetof(HistoryRecord, checksum));
}

}  // namespace cr::format
