// SPDX-License-Identifier: MIT
// flush_writer.cc - see flush_writer.h. Invariant: as there. Context: N.
#include "node/flush_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>

#include "format/checksum.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kPageBytes = kMostFramePages * kPageSize;
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;  // that are written at once, at least
constexpr uint64_t kMostOut = kPieceBytes + sizeof(FlushFrame) + kPageBytes;
constexpr uint64_t kTailBytes = uint64_t{2} << 20;  // of a step
// So much may be lost by a failure of power, and makes the last barrier wait.
constexpr uint64_t kSyncBytes = uint64_t{256} << 20;
constexpr int kZstdLevel = 1;
constexpr size_t kMostNameBytes = kPartNameBytes - 1;

template <typename T>
std::span<const uint8_t> bytes_of(const std::vector<T>& v) {
  return {reinterpret_cast<const uint8_t*>(v.data()), v.size() * sizeof(T)};
}

}  // namespace

FlushWriter::FlushWriter(std::string path, Start start)
    : path_(std::move(path)), start_(std::move(start)), pages_(kPageBytes) {
  for (auto& out : out_) out.resize(kMostOut);
}

FlushWriter::~FlushWriter() {
  ZSTD_freeCCtx(zstd_);
  (void)(file_ ? file_->drain() : Result<void>());
  if (discard_ && !committed_) (void)store::remove_file(path_);
}

Result<std::unique_ptr<FlushWriter>> FlushWriter::open(const std::string& path,
                                                       const Start& start) {
  auto w = std::unique_ptr<FlushWriter>(new FlushWriter(path, start));
  if (start.compress) {
    w->zstd_ = ZSTD_createCCtx();
    if (w->zstd_ == nullptr) return Error{Errc::kNoMemory, ENOMEM, "preparing to compress"};
  }
  CR_TRYV(w->open_file());
  FlushHeader& h = w->header_;
  memcpy(h.magic, kFlushMagic, sizeof(h.magic));
  h.format_version = kFlushVersion;
  h.header_bytes = sizeof(h);
  h.machine = kMachineX86_64;
  h.page_bytes = kPageSize;
  h.triple = start.triple;
  h.uid = start.session.uid;
  h.kind = static_cast<uint32_t>(start.session.protection.kind);
  h.data_parts = start.session.protection.data;
  h.parity_parts = start.session.protection.parity;
  memcpy(h.session_id, start.session.id.data(), sizeof(h.session_id));
  memcpy(h.name, start.session.name.data(), std::min(start.session.name.size(), kMostNameBytes));
  memcpy(h.node, start.node.data(), std::min(start.node.size(), kMostNameBytes));
  // A path that is longer is not put down: then nobody goes on with the file after a crash.
  const std::string& source = start.session.dir;
  uint8_t* const at = w->header_page_ + sizeof(h);
  if (source.size() < kFlushSourceBytes) memcpy(at, source.data(), source.size());
  h.source_xxh3 = checksum(at, kFlushSourceBytes);
  CR_TRYV(w->write_header());
  return w;
}

// The lock keeps out another process on this node, where the file system has locks.
Result<void> FlushWriter::open_file() {
  struct stat st, now;
  auto fd = open_trusted(path_, O_RDWR, &st);  // NFS locks nothing that is open for reading only
  if (fd) {
    if (flock(fd->get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return Error{Errc::kBusy, 0, "another crstored is writing it"};
    }
    if (lstat(path_.c_str(), &now) != 0 || now.st_ino != st.st_ino) {
      return Error{Errc::kBusy, 0, "another crstored has just written it"};
    }
    fd_ = std::move(*fd);
    if (can_go_on(st)) {
      CR_TRY(file_, store::File::open(path_, store::File::Mode::kExisting));
      recall_end_ = static_cast<uint64_t>(st.st_size);
      return {};
    }
  } else if (fd.error().code == Errc::kSystem && fd.error().sys_errno != ENOENT) {
    return fd.error();
  }
  CR_TRY(file_, store::File::open(path_, store::File::Mode::kEmpty));
  CR_TRY(fd_, open_trusted(path_, O_RDWR, &st));
  (void)flock(fd_.get(), LOCK_EX | LOCK_NB);
  return {};
}

bool FlushWriter::can_go_on(const struct stat& st) {
  const auto bytes = static_cast<uint64_t>(st.st_size);
  if (st.st_nlink != 1 || bytes < kFlushFramesOff) return false;
  if (!read_at(fd_.get(), header_page_, kFlushFramesOff, 0)) return false;
  const auto h = read_flush_begin(header_page_, bytes);
  memset(header_page_, 0, sizeof(header_page_));
  return h && session_id_of(h->session_id) == start_.session.id && start_.node == h->node;
}

Result<void> FlushWriter::write_header() {
  header_.checksum = flush_header_checksum(header_);
  memcpy(header_page_, &header_, sizeof(header_));
  traffic_ += kFlushFramesOff;
  CR_TRYV(file_->write(header_page_, kFlushFramesOff, 0));
  return file_->drain();
}

// After a write that was given up by the kernel what the cache says is not what the disk has.
Result<void> FlushWriter::barrier() {
  auto done = file_->barrier(start_.durable);
  if (!done) discard();
  synced_ = end_;
  return done;
}

void FlushWriter::note(uint64_t slot, uint64_t check, uint32_t frame) {
  if (slot >= checks_.size()) {
    checks_.resize(slot + 1);
    places_.resize(slot + 1, kFlushNoFrame);
  }
  checks_[slot] = check;
  places_[slot] = frame;
}

Result<bool> FlushWriter::recall(uint64_t slots) {
  if (recall_end_ == 0) return false;
  const uint64_t left = recall_end_ - end_;
  uint8_t* const bytes = out_[0].data();
  const uint64_t most = std::min(left, sizeof(FlushFrame) + kPageBytes);
  traffic_ += most;
  CR_TRYV(read_at(fd_.get(), bytes, most, end_));
  auto f = read_flush_frame(bytes, left, frames_.size());
  const bool good =
      f && is_frame_good(*f, bytes) && decode_frame(*f, bytes + sizeof(FlushFrame), pages_.data());
  if (!good || frames_.size() + 1 >= kMostFlushFrames) {
    recall_end_ = 0;
    CR_TRYV(file_->truncate(end_));
    return false;
  }
  const auto number = static_cast<uint32_t>(frames_.size());
  const uint8_t* page = pages_.data();
  for (uint32_t i = 0; i < f->run_count; i++) {
    for (uint64_t k = 0; k < f->runs[i].pages; k++, page += kPageSize) {
      if (f->runs[i].slot + k < slots) note(f->runs[i].slot + k, row_check(page), number);
    }
  }
  if (f->encoding == kFlushZstd) header_.flags |= kFlushHasZstd;
  frames_.push_back({end_, flush_frame_bytes(*f)});
  end_ += flush_frame_bytes(*f);
  return true;
}

Result<uint8_t*> FlushWriter::room(uint64_t slot) {
  if (frame_.run_count > 0) {
    const FlushRun& last = frame_.runs[frame_.run_count - 1];
    const uint64_t end = last.slot + last.pages;
    if (frame_.pages == kMostFramePages || slot < end ||
        (slot > end && frame_.run_count == kMostFrameRuns)) {
      CR_TRYV(close_frame());
    }
  }
  return pages_.data() + frame_.pages * kPageSize;
}

Result<void> FlushWriter::add(uint64_t slot, uint64_t check) {
  if (frames_.size() >= kMostFlushFrames) {
    discard();
    return Error{Errc::kInvalid, 0, "the file has too many frames"};
  }
  FlushRun* const last = frame_.run_count > 0 ? &frame_.runs[frame_.run_count - 1] : nullptr;
  if (last != nullptr && slot == last->slot + last->pages) {
    last->pages++;
  } else {
    frame_.runs[frame_.run_count++] = {slot, 1, 0};
  }
  frame_.pages++;
  note(slot, check, static_cast<uint32_t>(frames_.size()));
  return {};
}

// How many bytes `to` has got. Whatever does not become smaller by a page stays as it is.
uint64_t FlushWriter::encode(uint8_t* to, FlushFrame* frame) const {
  const uint64_t bytes = frame->pages * kPageSize;
  if (zstd_ != nullptr) {
    const size_t n = ZSTD_compressCCtx(zstd_, to, bytes, pages_.data(), bytes, kZstdLevel);
    if (ZSTD_isError(n) == 0 && page_ceil(n) < bytes) {
      frame->encoding = kFlushZstd;
      return n;
    }
  }
  frame->encoding = kFlushRaw;
  memcpy(to, pages_.data(), bytes);
  return bytes;
}

Result<void> FlushWriter::close_frame() {
  if (frame_.pages == 0) return {};
  uint8_t* const head = out_[filling_].data() + filled_;
  uint8_t* const stored = head + sizeof(FlushFrame);
  memcpy(frame_.magic, kFlushFrameMagic, sizeof(frame_.magic));
  frame_.number = static_cast<uint32_t>(frames_.size());
  frame_.stored_bytes = encode(stored, &frame_);
  if (frame_.encoding == kFlushZstd) header_.flags |= kFlushHasZstd;
  const uint64_t padded = page_ceil(frame_.stored_bytes);
  memset(stored + frame_.stored_bytes, 0, padded - frame_.stored_bytes);
  frame_.stored_xxh3 = checksum(stored, padded);
  frame_.checksum = flush_frame_checksum(frame_);
  memcpy(head, &frame_, sizeof(frame_));
  frames_.push_back({end_ + filled_, sizeof(frame_) + padded});
  filled_ += sizeof(frame_) + padded;
  frame_ = FlushFrame{};
  return filled_ >= kPieceBytes ? write_out() : Result<void>();
}

// Waits for the write before, whose memory is filled next.
Result<void> FlushWriter::write_out() {
  CR_TRYV(file_->drain());
  CR_TRYV(file_->write(out_[filling_].data(), filled_, end_));
  end_ += filled_;
  traffic_ += filled_;
  filled_ = 0;
  filling_ = 1 - filling_;
  return end_ - synced_ >= kSyncBytes ? barrier() : Result<void>();
}

Result<void> FlushWriter::begin_tail(const Whole& whole, std::vector<uint8_t> description,
                                     std::span<const uint64_t> checks) {
  CR_TRYV(close_frame());
  if (filled_ > 0) CR_TRYV(write_out());
  description_ = std::move(description);
  places_.resize(checks.size(), kFlushNoFrame);
  for (size_t i = 0; i < checks.size(); i++) {
    if (checks[i] == 0) places_[i] = kFlushNoFrame;
  }
  tail_ = {bytes_of(description_),
           bytes_of(frames_),
           {reinterpret_cast<const uint8_t*>(checks.data()), checks.size_bytes()},
           bytes_of(places_)};
  FlushHeader& h = header_;
  h.triple = whole.triple;
  h.realtime_ns = whole.realtime_ns;
  h.image_bytes = whole.image_bytes;
  h.slots = checks.size();
  h.frames = frames_.size();
  h.frames_end = end_;
  h.description_bytes = description_.size();
  uint64_t* const sums[] = {&h.description_xxh3, &h.index_xxh3, &h.checks_xxh3, &h.places_xxh3};
  for (size_t i = 0; i < tail_.size(); i++) *sums[i] = checksum(tail_[i].data(), tail_[i].size());
  return {};
}

Result<bool> FlushWriter::write_tail() {
  for (uint64_t room = kTailBytes; room > 0 && tail_piece_ < tail_.size();) {
    const auto piece = tail_[tail_piece_].subspan(tail_off_);
    const uint64_t bytes = std::min<uint64_t>(room, piece.size());
    if (bytes > 0) CR_TRYV(file_->write(piece.data(), bytes, end_));
    end_ += bytes;
    tail_off_ += bytes;
    traffic_ += bytes;
    room -= bytes;
    if (bytes == piece.size()) {
      tail_piece_++;
      tail_off_ = 0;
    }
  }
  CR_TRYV(file_->drain());
  return tail_piece_ < tail_.size();
}

// WRITE_LOCK need not wait for the tail: it counts under the final name alone.
Result<void> FlushWriter::commit(const std::string& final_path) {
  header_.write_lock = 1;
  CR_TRYV(write_header());
  CR_TRYV(barrier());
  CR_TRYV(store::rename_file(path_, final_path));  // COMMIT POINT flushed_file
  committed_ = true;
  return start_.durable ? store::sync_parent(final_path) : Result<void>();
}

}  // namespace cr::node
