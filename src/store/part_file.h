// SPDX-License-Identifier: MIT
// part_file.h - the two buffers in which a node keeps its part of a session: writing and reading.
// Invariant: a part whose WRITE_LOCK is 1 is whole; while one buffer is written the other is not
// touched. Context: N. Doc: docs/format/part.md.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "format/part_reader.h"
#include "os/fd.h"
#include "store/file.h"

namespace cr::store {

// DIR/part.HOLDER.BUFFER
std::string part_path(const std::string& dir, unsigned holder, int buffer);

// A part opened for reading; the view points into the copy, which has all but the rows: a mapping
// of the file would end this process where the disk cannot be read, or the file was made shorter.
struct LoadedPart {
  os::Fd fd;
  os::Mapping copy;
  format::PartView view;
  std::string path;
};
// What became of one buffer.
struct PartState {
  Error error;  // kOk: whole
  bool exists = false;
  std::unique_ptr<LoadedPart> part;
};
// Also beside whoever writes it: what changes meanwhile is looked at again.
PartState load_part(const std::string& path);
// Is it still the part that was loaded? Then what was read of its rows before is its own.
Result<bool> is_unchanged(const LoadedPart& part);

// Reads rows. kInvalid: there are no such rows; kDamaged: *ret_row is the first that is not what
// its checksum says.
Result<void> read_rows(const LoadedPart& part, uint64_t first, uint64_t count, uint8_t* pages,
                       uint64_t* ret_row);

// Rows whose bytes are not what their checksums say, ascending.
Result<std::vector<uint64_t>> damaged_rows(const LoadedPart& part);

// Writes one checkpoint's part into one buffer.
class PartWriter {
 public:
  // base: what rows are that are not put, the other buffer's; nullptr: zeros. It must stay until
  // commit() has returned. A file that is no whole part is replaced, but not one that cannot be
  // read now, or that a newer version or another machine wrote: then its error is returned.
  // old: what load_part() said of the file; nullptr: it is asked here.
  static Result<std::unique_ptr<PartWriter>> open(const std::string& path, bool durable,
                                                  const LoadedPart* base,
                                                  const PartState* old = nullptr);

  // check: format::row_check() of the page; 0: zeros, and `page` is not looked at. The page must
  // stay until drain(). A row may be put again, behind a drain().
  Result<void> put(uint64_t row, uint64_t check, const uint8_t* page);
  Result<void> flush();  // hands what was put to the kernel, which need not wait for drain()
  Result<void> drain();
  // Brings rows over from the base, description, barrier, WRITE_LOCK = 1, barrier. Of the header
  // what says where things lie is filled in here.
  Result<void> commit(format::PartHeader header, std::span<const uint8_t> description);

  uint64_t bytes_written() const { return bytes_written_; }
  // commit() has failed because the base could not be read.
  bool has_bad_base() const { return bad_base_; }

 private:
  PartWriter(std::unique_ptr<File> file, bool durable, const LoadedPart* base)
      : file_(std::move(file)), durable_(durable), base_(base) {}
  Result<void> lock();
  Result<void> write_header(format::PartHeader& header);
  Result<void> write_row(uint64_t row, uint64_t check, const uint8_t* page);
  Result<void> bring_over(uint64_t rows);
  Result<void> bring_run(uint64_t first, uint64_t end, uint8_t* pages);
  Result<void> drop_rows(uint64_t rows);
  Result<void> make_room(uint64_t rows);
  Result<void> write_tail(format::PartHeader& header, std::span<const uint8_t> description);
  Result<void> write_blocks(const std::vector<uint8_t>& tail, bool all);

  std::vector<uint8_t> brought_;  // rows of the base; until file_ has ended
  std::unique_ptr<File> file_;
  bool durable_;
  const LoadedPart* base_;
  bool bad_base_ = false;
  std::vector<uint64_t> checks_;      // of what the file holds now, by row; beyond: 0
  std::vector<bool> put_;             // by row: it is of this checkpoint
  uint64_t tail_off_ = 0;             // where description and checksums lie in the file; 0: nowhere
  std::vector<uint8_t> tail_;         // what is there, up to the end of the file
  const uint8_t* pending_ = nullptr;  // rows that were not handed to the kernel yet
  uint64_t pending_bytes_ = 0, pending_off_ = 0;
  uint64_t bytes_written_ = 0;
  alignas(4096) uint8_t header_page_[4096] = {};
};

}  // namespace cr::store
