// SPDX-License-Identifier: MIT
// image_reader.h - the reader of image files; distrusts every byte.
// Invariant: an ImageView is only made of sections that lie inside the file, with every reference
// (string, blob, slot, file index) in range and segments and extents sorted and disjoint.
// Context: N, H, S, R. Doc: docs/format/image.md. Fuzzed by tests/fuzz/image_reader_fuzz.cc.
#pragma once

#include <stdint.h>

#include <span>

#include "base/base.h"
#include "format/image.h"

namespace cr::format {

struct ImageView {
  const uint8_t* file = nullptr;
  uint64_t file_bytes = 0;
  SuperBlock super{};
  const ProcessRecord* process = nullptr;
  std::span<const SegmentRecord> segments;
  std::span<const ExtentRecord> extents;
  std::span<const uint64_t> checksums;  // per slot
  std::span<const ThreadRecord> threads;
  std::span<const FdRecord> fds;
  std::span<const FileRecord> files;
  std::span<const SigactionRecord> sigactions;
  std::span<const SiginfoRecord> siginfos;
  std::span<const OverlayRecord> overlays;
  std::span<const ObjectRecord> objects;
  std::span<const PosixTimerRecord> posix_timers;
  std::span<const LockRecord> locks;
  std::span<const OwnerRecord> owners;
  std::span<const TreeRecord> tree;
  std::span<const ThreadTraitsRecord> thread_traits;
  std::span<const ProcessTraitsRecord> process_traits;  // one or none
  std::span<const PluginRecord> plugins;
  std::span<const SemaphoreSetRecord> semaphores;
  std::span<const char> strings;
  std::span<const uint8_t> blobs;

  // Of a restore where files lie elsewhere: what is read instead of a string.
  const char* (*rename)(void* context, const char* text) = nullptr;
  void* rename_context = nullptr;

  const char* string(StringRef r) const {
    const char* text = strings.data() + r;
    return rename == nullptr ? text : rename(rename_context, text);
  }
  std::span<const uint8_t> blob(BlobRef r) const { return blobs.subspan(r.off, r.bytes); }
  // A blob that the reader knows to consist of such structs.
  template <typename T>
  std::span<const T> states(BlobRef r) const {
    return {reinterpret_cast<const T*>(blobs.data() + r.off), r.bytes / sizeof(T)};
  }
  const uint8_t* slot(uint64_t i) const { return file + super.payload_off + i * super.page_bytes; }
};

// Checks the first 512 bytes. Errors: kForeign, kTooNew, kDamaged, kWrongMachine; kNotWhole for an
// empty file or WRITE_LOCK = 0.
Result<SuperBlock> read_superblock(const uint8_t* file, uint64_t file_bytes);

// Checks everything but the pages' checksums. The view points into `file`, which must be 8-aligned.
Result<ImageView> read_image(const uint8_t* file, uint64_t file_bytes);

// Checks the pages of slots [first, last). Returns the first damaged slot, or `last`.
uint64_t verify_slots(const ImageView& image, uint64_t first, uint64_t last);

// Address of the page in a slot, 0 if no extent names it.
uint64_t slot_address(const ImageView& image, uint64_t slot);

// Where the object that the segment maps has its byte at `addr`, as an address of extents; 0: the
// segment maps none.
uint64_t object_address(const ImageView& image, const SegmentRecord& s, uint64_t addr);

// The extent that holds addr, or nullptr.
const ExtentRecord* find_extent(const ImageView& image, uint64_t addr);

}  // namespace cr::format
