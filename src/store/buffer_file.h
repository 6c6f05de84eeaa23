// SPDX-License-Identifier: MIT
// buffer_file.h - what every checkpoint does to a buffer's file, whoever finds its pages: the lock
// at the beginning, METADATA and the commit point at the end.
// Invariant: nothing is written to the file before WRITE_LOCK is 0 on it, and WRITE_LOCK is 1 only
// behind a barrier. Context: N. Doc: docs/format/image.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "format/image.h"
#include "store/file.h"
#include "store/model.h"

namespace cr::store {

// METADATA as it lies in the file.
struct WrittenMetadata {
  uint64_t off = 0;  // 0: there is none
  std::vector<uint8_t> bytes;
};

class BufferFile {
 public:
  BufferFile(std::unique_ptr<File> file, bool durable)
      : file_(std::move(file)), durable_(durable) {}

  // WRITE_LOCK = 0, and a barrier.
  Result<void> lock(const format::SuperBlock& previous);
  // Any bytes but METADATA; counted. `data` must stay until drain().
  Result<void> write(const void* data, uint64_t bytes, uint64_t off);
  Result<void> drain() { return file_->drain(); }
  bool punch(uint64_t off, uint64_t bytes) { return file_->punch(off, bytes); }
  // METADATA, of which only the blocks are written that `last` has not, barrier, WRITE_LOCK = 1,
  // barrier. `last` becomes what the file has. Fills the fields of `super` that it decides.
  Result<void> commit(const Model& model, WrittenMetadata& last, format::SuperBlock* super);

  uint64_t bytes_written() const { return bytes_written_; }
  void begin_count() { bytes_written_ = 0; }

 private:
  Result<void> write_super(format::SuperBlock& super);
  Result<void> write_metadata(const std::vector<uint8_t>& now, uint64_t off,
                              const WrittenMetadata& last);

  std::unique_ptr<File> file_;
  bool durable_;
  uint64_t bytes_written_ = 0;
  alignas(4096) uint8_t super_page_[4096] = {};
};

}  // namespace cr::store
