// SPDX-License-Identifier: MIT
// buffer.h - the two buffers image.0 and image.1 of an image directory: writing and reading.
// Invariant: a buffer whose WRITE_LOCK is 1 is whole; the other buffer is never touched by a write.
// Context: N. Doc: docs/format/image.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "format/channel.h"
#include "format/image_reader.h"
#include "os/fd.h"
#include "store/async_writer.h"
#include "store/model.h"

namespace cr::store {

std::string buffer_path(const std::string& dir, int index);

// Writes one checkpoint into one buffer.
class BufferWriter {
 public:
  static Result<std::unique_ptr<BufferWriter>> open(const std::string& dir, int index,
                                                    bool durable);

  // WRITE_LOCK = 0, and a barrier.
  Result<void> begin(const format::SuperBlock& previous);
  // Pages of staging memory. keep_zero(addr): a zero page there must be recorded because without
  // an extent the page reads as a file's content.
  using KeepZero = bool (*)(void* context, uint64_t addr);
  Result<void> append(Model& model, const uint8_t* staging, const std::vector<format::Run>& runs,
                      KeepZero keep_zero, void* context);
  // METADATA, barrier, WRITE_LOCK = 1, barrier. Fills the fields of `super` that it decides.
  Result<void> commit(Model& model, format::SuperBlock* super);

  uint64_t bytes_written() const { return bytes_written_; }

 private:
  BufferWriter(os::Fd fd, bool durable) : fd_(std::move(fd)), durable_(durable), out_(fd_.get()) {}
  Result<void> write_super(format::SuperBlock& super);

  os::Fd fd_;
  bool durable_;
  AsyncWriter out_;
  uint64_t slots_ = 0;
  uint64_t bytes_written_ = 0;
  alignas(4096) uint8_t super_page_[4096] = {};
};

// An image file opened for reading; the view points into the mapping.
struct LoadedImage {
  os::Fd fd;
  os::Mapping mapping;
  format::ImageView view;
  int index = 0;
  std::string path;
};

// What became of one buffer.
struct BufferState {
  Error error;  // kOk: whole
  bool exists = false;
  format::SuperBlock super{};  // valid if the superblock could be read
  std::unique_ptr<LoadedImage> image;
};
BufferState load_buffer(const std::string& dir, int index);

// Text for people: what is wrong with this buffer.
std::string describe_error(const std::string& path, const Error& error);

// Checks every page checksum of the image with all cores; the address of the first damaged page,
// or 0.
uint64_t verify_pages(const format::ImageView& view, uint64_t* ret_slot);

}  // namespace cr::store
