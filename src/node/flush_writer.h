// SPDX-License-Identifier: MIT
// flush_writer.h - writes one flushed file: frames of pages one behind the other, in large pieces,
// then the tail, under a temporary name until all of it is there.
// Invariant: the final name is given to whole files alone. What an earlier writer left is only
// believed as far as it was read back and has the right checksums.
// Context: N; may block as long as the shared file system does. Doc: docs/format/flush.md.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "format/flush_reader.h"
#include "node/flush_file.h"
#include "os/fd.h"
#include "store/file.h"

struct ZSTD_CCtx_s;

namespace cr::node {

class FlushWriter {
 public:
  struct Start {
    FlushedSession session;
    std::string node;
    format::Triple triple{};  // that is to be written, as far as is known
    bool durable = true, compress = false;
  };
  // What a whole file says of itself.
  struct Whole {
    format::Triple triple{};
    uint64_t realtime_ns = 0, image_bytes = 0;
  };

  // Goes on with the file at `path` if it is this node's of this session, else makes it anew.
  // kBusy: another process is writing it.
  static Result<std::unique_ptr<FlushWriter>> open(const std::string& path, const Start& start);
  ~FlushWriter();
  FlushWriter(const FlushWriter&) = delete;
  FlushWriter& operator=(const FlushWriter&) = delete;

  // Reads back one more frame that an earlier writer left, before anything else is done; pages of
  // slots from `slots` on are not wanted. false: that was all.
  Result<bool> recall(uint64_t slots);
  bool has(uint64_t slot, uint64_t check) const {
    return slot < checks_.size() && checks_[slot] == check;
  }

  // Where the page of the slot is to be put; then add(), or not.
  Result<uint8_t*> room(uint64_t slot);
  Result<void> add(uint64_t slot, uint64_t check);

  // Behind the last page. checks: by slot, of pages that were all added or recalled; must stay.
  Result<void> begin_tail(const Whole& whole, std::vector<uint8_t> description,
                          std::span<const uint64_t> checks);
  Result<bool> write_tail();  // a piece; true: there is more
  // Durable, whole, under its name.
  Result<void> commit(const std::string& final_path);

  uint64_t file_bytes() const { return end_ + filled_; }
  // Read and written since the last call.
  uint64_t take_traffic() { return std::exchange(traffic_, 0); }
  // The file must be made anew: what it holds is of no use, or cannot be relied on.
  void discard() { discard_ = true; }

 private:
  FlushWriter(std::string path, Start start);
  Result<void> open_file();
  bool can_go_on(const struct stat& st);
  Result<void> write_header();
  Result<void> close_frame();
  uint64_t encode(uint8_t* to, format::FlushFrame* frame) const;
  Result<void> write_out();
  Result<void> barrier();
  void note(uint64_t slot, uint64_t check, uint32_t frame);

  const std::string path_;
  const Start start_;
  os::Fd fd_;  // to read, and for the lock
  std::unique_ptr<store::File> file_;
  alignas(4096) uint8_t header_page_[format::kFlushFramesOff] = {};
  format::FlushHeader header_{};
  bool discard_ = false, committed_ = false;
  uint64_t recall_end_ = 0;  // the size of what an earlier writer left; 0: all is recalled

  std::vector<format::FlushFrameRecord> frames_;
  std::vector<uint64_t> checks_;             // by slot: of the page in the file
  std::vector<uint32_t> places_;             // by slot: its frame
  format::FlushFrame frame_{};               // the one that is filled
  std::vector<uint8_t> pages_;               // ... its pages
  std::array<std::vector<uint8_t>, 2> out_;  // one is filled while the other is written
  size_t filling_ = 0;
  uint64_t filled_ = 0;
  uint64_t end_ = format::kFlushFramesOff;  // what was handed to the kernel
  uint64_t synced_ = 0;
  ZSTD_CCtx_s* zstd_ = nullptr;

  std::vector<uint8_t> description_;
  std::array<std::span<const uint8_t>, 4> tail_;
  size_t tail_piece_ = 0;
  uint64_t tail_off_ = 0;  // in tail_[tail_piece_]
  uint64_t traffic_ = 0;
};

}  // namespace cr::node
