// SPDX-License-Identifier: MIT
// delta.h - commits checkpoints one after another that differ by a few pages only, into the two
// buffers in turns, at a cost that depends on these pages and not on how many there are.
// Invariant: as buffer.h. A buffer gets the pages of its checkpoint and those of the one before,
// which only the other buffer has.
// Context: N. Doc: docs/ARCHITECTURE.md, "The quick path".
#pragma once

#include "store/buffer.h"

namespace cr::store {

struct DeltaPage {
  uint64_t addr;
  const uint8_t* data;
  bool of_file;  // without a slot it would read as the file's content
};

class DeltaWriter {
 public:
  // buffers: of both files, both known. newest: which of them holds the last checkpoint. behind:
  // ascending addresses of the pages in which the other one differs from it, and nothing else does.
  // before: one that is of no use any more, or nullptr; what it has mapped is taken over.
  static Result<std::unique_ptr<DeltaWriter>> open(const std::string& dir, bool durable,
                                                   BufferIndex (&buffers)[2], int newest,
                                                   std::vector<uint64_t> behind,
                                                   DeltaWriter* before);

  // Has every page of the checkpoint a place in the buffer that would get it, and is that still the
  // file of its name? Otherwise it takes a BufferWriter.
  bool fits(const std::vector<DeltaPage>& pages) const;
  // Pages ascending; model: all but extents and checksums, which are the buffer's. Afterwards that
  // buffer is the newest. After an error it is unknown, and this of no more use.
  Result<void> commit(Model& model, const std::vector<DeltaPage>& pages, format::SuperBlock* super);

  uint64_t bytes_written() const { return sides_[newest_].file.bytes_written(); }

 private:
  struct Side {
    BufferFile file;
    BufferIndex& index;
    os::Mapping memory;
    std::string path;
    uint64_t dev, ino;
  };
  DeltaWriter(Side first, Side second, int newest, std::vector<uint64_t> behind)
      : sides_{std::move(first), std::move(second)}, newest_(newest), behind_(std::move(behind)) {}
  Result<void> put(Side& side, uint64_t addr, uint64_t sum, const uint8_t* data);
  Result<void> catch_up(Side& side, const std::vector<DeltaPage>& pages);

  Side sides_[2];
  int newest_;
  std::vector<uint64_t> behind_;  // pages that the buffer that is not the newest lacks
};

}  // namespace cr::store
