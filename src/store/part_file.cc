// SPDX-License-Identifier: MIT
// part_file.cc - see part_file.h. Invariant: as there. Context: N.
#include "store/part_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "format/checksum.h"
#include "os/fault.h"

namespace cr::store {
namespace {

using format::PartHeader;
using os::fault_point;
using os::FaultPoint;

constexpr uint64_t kTailBlock = 4096;
constexpr int kMostLooks = 16;  // at a part that is written meanwhile
constexpr uint64_t kWriteBytes = 1 << 20;
constexpr uint64_t kMostBrought = 4 * kWriteBytes / kPageSize;  // rows in memory at once
alignas(4096) constexpr uint8_t kZeros[kPageSize] = {};

uint64_t row_off(uint64_t row) { return format::kPartRowsOff + row * kPageSize; }

void set_constants(PartHeader& h) {
  memcpy(h.magic, format::kPartMagic, sizeof(h.magic));
  h.format_version = format::kPartVersion;
  h.header_bytes = sizeof(h);
  h.machine = format::kMachineX86_64;
  h.page_bytes = kPageSize;
  h.unit_pages = 16;
  h.rotate_rows = 256;
}

// Of a part that is not whole.
PartHeader blank_header() {
  PartHeader header{};
  set_constants(header);
  header.data_parts = 1;
  header.checksum = format::part_header_checksum(header);
  return header;
}

// A file that says nothing, or nothing that is of use.
bool may_replace(const PartState& old) {
  switch (old.error.code) {
    case Errc::kNotWhole:
    case Errc::kForeign:
    case Errc::kDamaged:
    case Errc::kPermission:
      return true;
    default:
      return false;
  }
}

// Has a header, and is of a writer that did not come to its end.
bool is_unfinished(const std::string& path, const PartState& state) {
  struct stat st;
  return state.exists && state.error.code == Errc::kNotWhole && stat(path.c_str(), &st) == 0 &&
         static_cast<uint64_t>(st.st_size) >= format::kPartRowsOff;
}

// As with an image's buffers, a new file gets its name when its header is durable. So a power
// failure leaves no file that a later look takes for damage.
Result<void> make_part(const std::string& path, bool durable) {
  const std::string unnamed = path + ".new";
  CR_TRY(const std::unique_ptr<File> file, File::open(unnamed, File::Mode::kEmpty));
  alignas(4096) uint8_t page[kPageSize] = {};
  const PartHeader header = blank_header();
  memcpy(page, &header, sizeof(header));
  CR_TRYV(file->write(page, sizeof(page), 0));
  CR_TRYV(file->barrier(durable));
  CR_TRYV(rename_file(unnamed, path));
  if (durable) CR_TRYV(sync_parent(path));
  return {};
}

using HeaderBytes = std::array<uint8_t, sizeof(PartHeader)>;

Result<void> read_bytes(int fd, uint8_t* to, uint64_t bytes, uint64_t off) {
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = pread(fd, to + done, bytes - done, static_cast<off_t>(off + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{Errc::kSystem, errno, "reading a part"};
    if (n == 0) return Error{Errc::kDamaged, 0, "a part ends too early"};
    done += static_cast<uint64_t>(n);
  }
  return {};
}

// Zeros if the file is shorter.
Result<HeaderBytes> header_of(int fd) {
  HeaderBytes bytes{};
  const auto done = read_bytes(fd, bytes.data(), bytes.size(), 0);
  if (!done && done.error().code != Errc::kDamaged) return done.error();
  if (!done) bytes.fill(0);
  return bytes;
}

Result<uint64_t> length_of(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return Error{Errc::kSystem, errno, "fstat"};
  return static_cast<uint64_t>(st.st_size);
}

// Opens the file, if it may be trusted. Returns its length.
Result<uint64_t> open_part(const std::string& path, LoadedPart* part, bool* ret_exists) {
  part->path = path;
  part->fd = os::Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  *ret_exists = part->fd || errno != ENOENT;
  if (!*ret_exists) return Error{Errc::kNotWhole, ENOENT, "there is no such part yet"};
  if (!part->fd) return Error{Errc::kSystem, errno, "opening a part"};
  struct stat st;
  if (fstat(part->fd.get(), &st) != 0) return Error{Errc::kSystem, errno, "fstat"};
  if ((st.st_mode & 022) != 0 || (st.st_uid != geteuid() && st.st_uid != 0)) {
    return Error{Errc::kPermission, 0, "others may write it, so it cannot be trusted (chmod 600)"};
  }
  return static_cast<uint64_t>(st.st_size);
}

// header: the file's first bytes.
Result<void> copy_part(LoadedPart* part, uint64_t bytes, const HeaderBytes& header) {
  CR_TRY(const PartHeader h, format::read_part_header(header.data(), bytes));
  CR_TRY(part->copy, os::Mapping::map(-1, bytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
  memcpy(part->copy.data(), header.data(), header.size());
  const uint64_t off = std::min(h.description_off, bytes);
  CR_TRYV(read_bytes(part->fd.get(), part->copy.data() + off, bytes - off, off));
  CR_TRY(part->view, format::read_part(part->copy.data(), bytes));
  return {};
}

}  // namespace

std::string part_path(const std::string& dir, unsigned holder, int buffer) {
  return dir + "/part." + std::to_string(holder) + "." + std::to_string(buffer);
}

PartState load_part(const std::string& path) {
  PartState s;
  for (int look = 0; look < kMostLooks; look++) {
    auto part = std::make_unique<LoadedPart>();
    const auto opened = open_part(path, part.get(), &s.exists);
    if (!opened) {
      s.error = opened.error();
      return s;
    }
    const auto before = header_of(part->fd.get());
    // Only now, as the header may have been written since the file was opened, for another length.
    const auto bytes = before ? length_of(part->fd.get()) : Result<uint64_t>(before.error());
    const auto copied =
        bytes ? copy_part(part.get(), *bytes, *before) : Result<void>(bytes.error());
    const auto after = header_of(part->fd.get());
    if (before && after && *after != *before) continue;
    s.error = copied ? Error{} : copied.error();
    if (copied) s.part = std::move(part);
    return s;
  }
  s.error = {Errc::kNotWhole, 0, "it is being written"};
  return s;
}

Result<bool> is_unchanged(const LoadedPart& part) {
  CR_TRY(const HeaderBytes now, header_of(part.fd.get()));
  return memcmp(now.data(), &part.view.header, now.size()) == 0;
}

Result<void> read_rows(const LoadedPart& part, uint64_t first, uint64_t count, uint8_t* pages,
                       uint64_t* ret_row) {
  const auto& checks = part.view.checks;
  *ret_row = first;
  if (first > checks.size() || count > checks.size() - first) {
    return Error{Errc::kInvalid, 0, "the part has no such row"};
  }
  for (uint64_t i = 0; i < count;) {
    const uint64_t from = i;
    while (i < count && checks[first + i] != 0) i++;
    *ret_row = first + from;
    if (i > from) {
      CR_TRYV(read_bytes(part.fd.get(), pages + from * kPageSize, (i - from) * kPageSize,
                         row_off(first + from)));
    } else {
      memset(pages + i++ * kPageSize, 0, kPageSize);
    }
    for (uint64_t k = from; k < i; k++) {
      *ret_row = first + k;
      const uint64_t check = checks[first + k];
      if (check != 0 && format::row_check(pages + k * kPageSize) != check) {
        return Error{Errc::kDamaged, 0, "a row is not what its checksum says"};
      }
    }
  }
  return {};
}

Result<std::vector<uint64_t>> damaged_rows(const LoadedPart& part) {
  std::vector<uint64_t> bad;
  uint8_t page[kPageSize];
  for (uint64_t row = 0; row < part.view.checks.size(); row++) {
    CR_TRYV(read_bytes(part.fd.get(), page, sizeof(page), row_off(row)));
    if (format::row_check(page) != part.view.checks[row]) bad.push_back(row);
  }
  return bad;
}

Result<std::unique_ptr<PartWriter>> PartWriter::open(const std::string& path, bool durable,
                                                     const LoadedPart* base,
                                                     const PartState* known) {
  // Of what the file holds only a whole part says what its rows are.
  const PartState loaded = known != nullptr ? PartState() : load_part(path);
  const PartState& old = known != nullptr ? *known : loaded;
  if (!old.part && !may_replace(old)) return old.error;
  const bool is_locked = is_unfinished(path, old);
  if (!old.part && !is_locked) {
    CR_TRYV(remove_file(path));  // before the new one needs room
    auto made = make_part(path, durable);
    if (!made) {
      (void)remove_file(path + ".new");
      return made.error();
    }
  }
  auto file = File::open(path, File::Mode::kExisting);
  if (!file) return file.error();
  auto w = std::unique_ptr<PartWriter>(new PartWriter(std::move(*file), durable, base));
  if (old.part) {
    const format::PartView& v = old.part->view;
    w->checks_.assign(v.checks.begin(), v.checks.end());
    w->tail_off_ = v.header.description_off;
    w->tail_.assign(v.file + w->tail_off_, v.file + v.header.checks_off + v.checks.size_bytes());
  }
  if (old.part || is_locked) CR_TRYV(w->lock());
  if (is_locked) CR_TRYV(w->file_->truncate(format::kPartRowsOff));
  fault_point(FaultPoint::kPartLocked);
  return w;
}

Result<void> PartWriter::write_header(PartHeader& header) {
  header.checksum = format::part_header_checksum(header);
  memset(header_page_, 0, sizeof(header_page_));
  memcpy(header_page_, &header, sizeof(header));
  return file_->write(header_page_, sizeof(header_page_), 0);
}

Result<void> PartWriter::lock() {
  PartHeader header = blank_header();
  CR_TRYV(write_header(header));
  return file_->barrier(durable_);
}

Result<void> PartWriter::flush() {
  if (pending_bytes_ == 0) return {};
  bytes_written_ += pending_bytes_;
  CR_TRYV(file_->write(pending_, pending_bytes_, pending_off_));
  pending_bytes_ = 0;
  return {};
}

// The file may have so many rows: where the tail lay, it has zeros.
Result<void> PartWriter::make_room(uint64_t rows) {
  if (tail_off_ == 0 || row_off(rows) <= tail_off_) return {};
  CR_TRYV(drain());
  CR_TRYV(file_->truncate(tail_off_));
  tail_off_ = 0;
  tail_.clear();
  return {};
}

Result<void> PartWriter::write_row(uint64_t row, uint64_t check, const uint8_t* page) {
  if (row >= checks_.size()) {
    CR_TRYV(make_room(row + 1));
    checks_.resize(row + 1);
  }
  const bool was_zero = checks_[row] == 0;
  checks_[row] = check;
  if (check == 0) {
    if (was_zero) return {};
    CR_TRYV(flush());
    if (file_->punch(row_off(row), kPageSize)) return {};
    page = kZeros;
  }
  if (pending_bytes_ > 0 && pending_bytes_ < kWriteBytes && pending_ + pending_bytes_ == page &&
      pending_off_ + pending_bytes_ == row_off(row)) {
    pending_bytes_ += kPageSize;
    return {};
  }
  CR_TRYV(flush());
  pending_ = page;
  pending_off_ = row_off(row);
  pending_bytes_ = kPageSize;
  return {};
}

Result<void> PartWriter::put(uint64_t row, uint64_t check, const uint8_t* page) {
  if (row >= put_.size()) put_.resize(row + 1);
  put_[row] = true;
  return write_row(row, check, page);
}

Result<void> PartWriter::drain() {
  CR_TRYV(flush());
  return file_->drain();
}

// Rows from this one on are no more. What is not in use holds zeros, so that a row there can be one
// of zeros later.
Result<void> PartWriter::drop_rows(uint64_t rows) {
  if (checks_.size() <= rows) return {};
  if (!file_->punch(row_off(rows), (checks_.size() - rows) * kPageSize)) {
    for (uint64_t row = rows; row < checks_.size(); row++) CR_TRYV(write_row(row, 0, nullptr));
    CR_TRYV(flush());
  }
  checks_.resize(rows);
  return {};
}

// Rows that were not put are the base's; many of them this file has already, as it held the
// checkpoint before that.
Result<void> PartWriter::bring_over(uint64_t rows) {
  CR_TRYV(make_room(rows));
  checks_.resize(rows);
  put_.resize(rows);
  const auto base_check = [&](uint64_t row) {
    const bool has = base_ != nullptr && row < base_->view.checks.size();
    return has ? base_->view.checks[row] : 0;
  };
  const auto is_brought = [&](uint64_t row) {
    return !put_[row] && checks_[row] != base_check(row);
  };
  uint64_t used = 0;  // pages of brought_ that may be under way
  for (uint64_t row = 0; row < rows;) {
    if (!is_brought(row)) {
      row++;
      continue;
    }
    if (base_check(row) == 0) {
      CR_TRYV(write_row(row++, 0, nullptr));
      continue;
    }
    const uint64_t all = std::min(kMostBrought, rows), first = row;
    brought_.resize(all * kPageSize);
    if (used == all) {
      CR_TRYV(drain());
      used = 0;
    }
    while (row < rows && row - first < all - used && is_brought(row) && base_check(row) != 0) row++;
    CR_TRYV(bring_run(first, row, brought_.data() + used * kPageSize));
    used += row - first;
  }
  return drain();
}

// Rows [first, end), of which the base has other pages than zeros. They are read, not mapped: a
// disk that fails must be an error here.
Result<void> PartWriter::bring_run(uint64_t first, uint64_t end, uint8_t* pages) {
  const uint64_t bytes = (end - first) * kPageSize;
  if (auto read = read_bytes(base_->fd.get(), pages, bytes, row_off(first)); !read) {
    bad_base_ = true;
    return read;
  }
  for (uint64_t row = first; row < end; row++) {
    CR_TRYV(write_row(row, base_->view.checks[row], pages + (row - first) * kPageSize));
  }
  return {};
}

Result<void> PartWriter::write_tail(PartHeader& h, std::span<const uint8_t> description) {
  const uint64_t end_of_rows = row_off(h.rows);
  // Room for some more rows, so that it can stay where it is.
  h.description_off =
      tail_off_ >= end_of_rows ? tail_off_ : end_of_rows + (h.rows / 16 + 16) * kPageSize;
  h.description_bytes = description.size();
  h.description_xxh3 = format::checksum(description.data(), description.size());
  // On a page of their own, the checksums seldom move when the description's length changes.
  const uint64_t checks_at = page_ceil(description.size());
  h.checks_off = h.description_off + checks_at;
  h.checks_xxh3 = format::checksum(checks_.data(), checks_.size() * sizeof(uint64_t));
  std::vector<uint8_t> tail(checks_at + checks_.size() * sizeof(uint64_t));
  std::ranges::copy(description, tail.begin());
  if (h.rows > 0) {
    memcpy(tail.data() + checks_at, checks_.data(), checks_.size() * sizeof(uint64_t));
  }
  const bool moved = tail_off_ != h.description_off;
  if (moved) CR_TRYV(file_->truncate(end_of_rows));
  if (moved || tail_.size() != tail.size()) {
    CR_TRYV(file_->truncate(h.description_off + tail.size()));
  }
  tail_off_ = h.description_off;
  CR_TRYV(write_blocks(tail, moved));
  tail_ = std::move(tail);
  return {};
}

// Writes the blocks of the tail that the file does not hold already.
Result<void> PartWriter::write_blocks(const std::vector<uint8_t>& tail, bool all) {
  uint64_t from = 0;
  const auto write_until = [&](uint64_t to) -> Result<void> {
    for (uint64_t at = from; at < to; at += kWriteBytes) {
      const uint64_t bytes = std::min(kWriteBytes, to - at);
      bytes_written_ += bytes;
      CR_TRYV(file_->write(tail.data() + at, bytes, tail_off_ + at));
    }
    return {};
  };
  for (uint64_t at = 0; at < tail.size(); at += kTailBlock) {
    const uint64_t bytes = std::min<uint64_t>(kTailBlock, tail.size() - at);
    if (all || at + bytes > tail_.size() ||
        memcmp(tail.data() + at, tail_.data() + at, bytes) != 0) {
      continue;
    }
    CR_TRYV(write_until(at));
    from = at + bytes;
  }
  CR_TRYV(write_until(tail.size()));
  return file_->drain();
}

Result<void> PartWriter::commit(PartHeader header, std::span<const uint8_t> description) {
  set_constants(header);
  CR_TRYV(drain());
  CR_TRYV(drop_rows(header.rows));
  CR_TRYV(bring_over(header.rows));
  CR_TRYV(file_->drain());
  CR_TRYV(write_tail(header, description));
  fault_point(FaultPoint::kPartWritten);
  CR_TRYV(file_->barrier(durable_));
  header.write_lock = 1;
  CR_TRYV(write_header(header));  // COMMIT POINT part_write_lock
  CR_TRYV(file_->drain());
  fault_point(FaultPoint::kPartCommitted);
  return file_->barrier(durable_);
}

}  // namespace cr::store
