// SPDX-License-Identifier: MIT
// image_memory.h - reads the memory of a saved process out of its image, by address.
// Invariant: a page is only used after its checksum was found right; what is not in the image is
// taken from the mapped file only if that file is still the same (size and modification time).
// Context: N (agent). Doc: docs/format/image.md, "Memory".
#pragma once

#include <stdint.h>

#include <map>
#include <string>
#include <vector>

#include "format/image_reader.h"
#include "os/fd.h"

namespace cr::agent {

class ImageMemory {
 public:
  // `image` must stay until this object is gone.
  explicit ImageMemory(const format::ImageView& image);

  // false: some byte of it is not mapped, not known, or in a damaged page.
  bool read(uint64_t addr, void* to, size_t bytes);
  template <typename T>
  bool read_object(uint64_t addr, T* ret) {
    return read(addr, ret, sizeof(T));
  }
  // A NUL-terminated string of less than `most` bytes.
  bool read_string(uint64_t addr, size_t most, std::string* ret);

  const format::SegmentRecord* segment(uint64_t addr) const;
  const format::ImageView& image() const { return image_; }

  // A page in a slot with the wrong checksum was met at this address; 0: none.
  uint64_t damaged_addr() const { return damaged_addr_; }

 private:
  bool read_in_page(uint64_t addr, uint8_t* to, size_t bytes);
  bool read_in_file(const format::SegmentRecord& s, uint64_t addr, uint8_t* to, size_t bytes);
  bool slot_is_right(uint64_t slot, uint64_t addr);

  const format::ImageView& image_;
  std::vector<bool> checked_;  // slots whose checksum is right
  std::map<std::string, os::Mapping> files_;
  uint64_t damaged_addr_ = 0;
};

// The file that the segment maps, if it is still the one that was mapped; an empty Mapping if not.
os::Mapping map_unchanged_file(const format::ImageView& image, const format::SegmentRecord& s);

}  // namespace cr::agent
