// SPDX-License-Identifier: MIT
// buffer_file.cc - see buffer_file.h. Invariant: as there. Context: N.
#include "store/buffer_file.h"

#include <string.h>

#include <algorithm>

#include "format/checksum.h"
#include "os/fault.h"

namespace cr::store {
namespace {

using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kMetadataBlock = 4096;

void set_constants(format::SuperBlock& super) {
  memcpy(super.magic, format::kImageMagic, sizeof(super.magic));
  super.format_version = format::kImageVersion;
  super.header_bytes = sizeof(super);
  super.machine = format::kMachineX86_64;
  super.page_bytes = kPageSize;
}

}  // namespace

Result<void> BufferFile::write_super(format::SuperBlock& super) {
  super.checksum = format::superblock_checksum(super);
  memset(super_page_, 0, sizeof(super_page_));
  memcpy(super_page_, &super, sizeof(super));
  return file_->write(super_page_, sizeof(super_page_), 0);
}

Result<void> BufferFile::lock(const format::SuperBlock& previous) {
  format::SuperBlock super = previous;
  set_constants(super);
  super.write_lock = 0;
  CR_TRYV(write_super(super));
  CR_TRYV(file_->drain());
  fault_point(FaultPoint::kLockCleared);
  CR_TRYV(file_->barrier(durable_));
  fault_point(FaultPoint::kLockClearedSynced);
  return {};
}

Result<void> BufferFile::write(const void* data, uint64_t bytes, uint64_t off) {
  bytes_written_ += bytes;
  return file_->write(data, bytes, off);
}

// Writes the blocks of it that the file does not hold already.
Result<void> BufferFile::write_metadata(const std::vector<uint8_t>& now, uint64_t off,
                                        const WrittenMetadata& last) {
  const bool in_place = last.off == off;
  uint64_t from = 0;
  auto flush = [&](uint64_t to) -> Result<void> {
    if (to > from) CR_TRYV(write(now.data() + from, to - from, off + from));
    return {};
  };
  for (uint64_t at = 0; at < now.size(); at += kMetadataBlock) {
    const uint64_t bytes = std::min<uint64_t>(kMetadataBlock, now.size() - at);
    if (!in_place || at + bytes > last.bytes.size() ||
        memcmp(now.data() + at, last.bytes.data() + at, bytes) != 0) {
      continue;
    }
    CR_TRYV(flush(at));
    from = at + bytes;
  }
  return flush(now.size());
}

Result<void> BufferFile::commit(const Model& model, WrittenMetadata& last,
                                format::SuperBlock* super) {
  const uint64_t slots = model.checksums.size();
  set_constants(*super);
  super->feature_incompat = model.incompat_features();
  super->payload_off = kPageSize;
  super->payload_slots = slots;
  // Room for some more pages, so that METADATA too can stay where it is.
  const uint64_t end_of_slots = kPageSize + slots * kPageSize;
  super->metadata_off =
      last.off >= end_of_slots ? last.off : end_of_slots + (slots / 16 + 16) * kPageSize;
  std::vector<uint8_t> metadata = model.serialize();
  super->metadata_bytes = metadata.size();
  super->metadata_xxh3 = format::checksum(metadata.data(), metadata.size());
  const uint64_t end = super->metadata_off + metadata.size();
  // What lies between the slots and METADATA is zero.
  const bool moved = last.off != super->metadata_off;
  if (moved) CR_TRYV(file_->truncate(end_of_slots));
  if (moved || last.bytes.size() != metadata.size()) CR_TRYV(file_->truncate(end));
  CR_TRYV(write_metadata(metadata, super->metadata_off, last));
  last = {super->metadata_off, std::move(metadata)};
  CR_TRYV(file_->drain());
  bytes_written_ += kPageSize;
  fault_point(FaultPoint::kMetadataWritten);
  CR_TRYV(file_->barrier(durable_));
  fault_point(FaultPoint::kPayloadSynced);
  super->write_lock = 1;
  CR_TRYV(write_super(*super));  // COMMIT POINT image_write_lock
  CR_TRYV(file_->drain());
  fault_point(FaultPoint::kCommitted);
  CR_TRYV(file_->barrier(durable_));
  fault_point(FaultPoint::kCommittedSynced);
  return {};
}

}  // namespace cr::store
