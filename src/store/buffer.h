// SPDX-License-Identifier: MIT
// buffer.h - the two buffers image.0 and image.1 of an image directory: writing and reading.
// Invariant: a buffer whose WRITE_LOCK is 1 is whole; the other buffer is never touched by a write.
// Context: N. Doc: docs/format/image.md.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/channel.h"
#include "format/image_reader.h"
#include "os/fd.h"
#include "store/buffer_file.h"
#include "store/file.h"
#include "store/model.h"

namespace cr::store {

std::string buffer_path(const std::string& dir, int index);

struct SlotRun {
  uint64_t first, count;
};

// What the newest checkpoint in a buffer's file is made of, kept by the session that wrote it. A
// page keeps its slot as long as it exists, so that the next checkpoint in this buffer writes only
// what differs.
struct BufferIndex {
  bool known = false;     // else: the file may hold anything
  bool wasteful = false;  // too many slots are free: the next checkpoint writes the file anew
  std::vector<format::ExtentRecord> extents;
  std::vector<uint64_t> checksums;  // by slot; of a free one: of a page of zeros
  std::vector<SlotRun> free_slots;  // ascending
  WrittenMetadata metadata;
};

bool is_zero_page(const uint8_t* page);

// Writes one checkpoint into one buffer.
class BufferWriter {
 public:
  // index: of this buffer; unknown until commit() was successful. If it is unknown and `durable`,
  // everything that is in the directory is made durable: it may have been written without.
  static Result<std::unique_ptr<BufferWriter>> open(const std::string& dir, int index_of_buffer,
                                                    bool durable, BufferIndex& index);

  // WRITE_LOCK = 0, and a barrier.
  Result<void> begin(const format::SuperBlock& previous);
  // Where pages that are the same as at the last checkpoint come from: the other buffer, whole.
  Result<void> set_last(const std::string& dir, int index_of_buffer, const BufferIndex& last);
  // Pages of staging memory or kPagesSame, in the order of their addresses over all calls.
  // keep_zero(addr): a zero page there must be recorded because without an extent the page reads as
  // a file's content.
  using KeepZero = bool (*)(void* context, uint64_t addr);
  Result<void> append(Model& model, const uint8_t* staging, const std::vector<format::Run>& runs,
                      KeepZero keep_zero, void* context);
  // METADATA, barrier, WRITE_LOCK = 1, barrier. Fills the fields of `super` that it decides.
  Result<void> commit(Model& model, format::SuperBlock* super);

  // Is called now and then by append(), with bytes of the pages that it was given.
  void set_progress(std::function<void(uint64_t done, uint64_t total)> f) {
    progress_ = std::move(f);
  }

  uint64_t bytes_written() const { return file_.bytes_written(); }
  // The page as the last checkpoint has it; nullptr: a page of zeros.
  const uint8_t* last_page(uint64_t addr) const;

 private:
  BufferWriter(std::unique_ptr<File> file, bool durable, BufferIndex& index)
      : file_(std::move(file), durable), index_(index) {}
  void punch_free_slots();
  void extend(Model& model, uint64_t addr, uint64_t slot, uint64_t pages);
  Result<void> write_page(uint64_t slot, uint64_t sum, const uint8_t* data);
  Result<void> place(Model& model, uint64_t addr, uint64_t sum, const uint8_t* data);
  Result<void> place_slots(Model& model, uint64_t addr, uint64_t last_slot, uint64_t pages);
  Result<void> place_same(Model& model, uint64_t addr, uint64_t pages);
  Result<void> flush();
  uint64_t old_slot(uint64_t addr);
  uint64_t old_slots(uint64_t addr, uint64_t most, uint64_t* ret_pages);
  uint64_t new_slot();
  void free_slot(uint64_t slot);

  BufferFile file_;
  BufferIndex& index_;
  BufferIndex old_;             // what the file holds; its slots are taken over one by one
  size_t old_extent_ = 0;       // those before are behind us, and so are ...
  uint64_t old_page_ = 0;       // ... the pages before this one of it
  size_t next_free_ = 0;        // of old_.free_slots
  std::vector<SlotRun> freed_;  // by this checkpoint
  const BufferIndex* last_ = nullptr;
  os::Mapping last_file_;
  size_t last_extent_ = 0;            // of last_: those before are behind us
  size_t segment_ = 0;                // of the model: that of the newest extent
  const uint8_t* pending_ = nullptr;  // pages not handed to the kernel yet
  uint64_t pending_bytes_ = 0, pending_off_ = 0;
  std::vector<uint64_t> checksums_;  // by slot
  std::function<void(uint64_t, uint64_t)> progress_;
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

// Checks every page checksum of the image with all cores; the address of the first damaged page
// (1: no extent names it), or 0. progress: is called now and then, in the caller's thread; {}:
// nobody.
using VerifyProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;
uint64_t verify_pages(const format::ImageView& view, uint64_t* ret_slot,
                      const VerifyProgress& progress = {});
// Those of these slots only; ascending, not empty each.
uint64_t verify_pages(const format::ImageView& view, const std::vector<SlotRun>& runs,
                      uint64_t* ret_slot, const VerifyProgress& progress = {});

}  // namespace cr::store
