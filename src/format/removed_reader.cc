// SPDX-License-Identifier: MIT
// removed_reader.cc - see removed_reader.h. Invariant: as there. Context: N, H, S, R.
#include "format/removed_reader.h"

#include <stddef.h>

#include "format/checksum.h"

namespace cr::format {

Result<std::span<const RemovedRecord>> read_removed(const uint8_t* file, uint64_t file_bytes) {
  const Error foreign{Errc::kForeign, 0, "not a list of removed sessions"};
  const Error damaged{Errc::kDamaged, 0, "the list of removed sessions is damaged"};
  RemovedHeader h{};
  constexpr uint64_t kFirst = 16;  // magic, version, length: the same in every version
  if (file_bytes < kFirst) return foreign;
  __builtin_memcpy(&h, file, file_bytes < sizeof(h) ? file_bytes : sizeof(h));
  if (__builtin_memcmp(h.magic, kRemovedMagic, sizeof(h.magic)) != 0) return foreign;
  if (h.format_version > kRemovedVersion) {
    return Error{Errc::kTooNew, 0, "the list of removed sessions was written by a later version"};
  }
  if (file_bytes < sizeof(h) || h.format_version == 0 || h.header_bytes != sizeof(h) ||
      h.record_bytes != sizeof(RemovedRecord) || h.count > kMostRemoved ||
      file_bytes != sizeof(h) + uint64_t{h.count} * sizeof(RemovedRecord) ||
      h.checksum != checksum(&h, offsetof(RemovedHeader, checksum))) {
    return damaged;
  }
  const std::span<const RemovedRecord> records{
      reinterpret_cast<const RemovedRecord*>(file + sizeof(h)), h.count};
  if (h.records_sum != checksum(records.data(), records.size_bytes())) return damaged;
  for (size_t i = 0; i < records.size(); i++) {
    const RemovedRecord& r = records[i];
    if (r.newest.epoch == 0 || r.newest.sequence == 0) return damaged;
    const bool ascends = i == 0 || __builtin_memcmp(records[i - 1].session_id, r.session_id,
                                                    sizeof(r.session_id)) < 0;
    if (!ascends) return damaged;
  }
  return records;
}

void seal(RemovedHeader* header, std::span<const RemovedRecord> records) {
  *header = {};
  __builtin_memcpy(header->magic, kRemovedMagic, sizeof(header->magic));
  header->format_version = kRemovedVersion;
  header->header_bytes = sizeof(*header);
  header->record_bytes = sizeof(RemovedRecord);
  header->count = static_cast<uint32_t>(records.size());
  header->records_sum = checksum(records.data(), records.size_bytes());
  header->checksum = checksum(header, offsetof(RemovedHeader, checksum));
}

}  // namespace cr::format
