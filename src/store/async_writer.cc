// SPDX-License-Identifier: MIT
// async_writer.cc - see async_writer.h. Invariant: as there. Context: N.
#include "store/async_writer.h"

#include <errno.h>
#include <unistd.h>

namespace cr::store {

namespace {
// Of a shorter write the kernel's share is done before another thread of it has begun.
constexpr uint64_t kLeastForRing = 64 * 1024;
}  // namespace

AsyncWriter::AsyncWriter(int fd, unsigned depth) : fd_(fd), slots_(depth) {}

AsyncWriter::~AsyncWriter() {
  if (!ring_ok_) return;
  while (in_flight_ > 0) {
    if (!reap(true)) break;
  }
  io_uring_queue_exit(&ring_);
}

Result<void> AsyncWriter::write_now(const uint8_t* data, uint64_t bytes, uint64_t off) {
  while (bytes > 0) {
    const ssize_t r = pwrite(fd_, data, bytes, static_cast<off_t>(off));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return Error{Errc::kSystem, errno, "writing the image"};
    if (r == 0) return Error{Errc::kSystem, EIO, "writing the image"};
    data += r;
    bytes -= static_cast<uint64_t>(r);
    off += static_cast<uint64_t>(r);
  }
  return {};
}

Result<void> AsyncWriter::reap(bool wait) {
  io_uring_cqe* cqe = nullptr;
  const int r = wait ? io_uring_wait_cqe(&ring_, &cqe) : io_uring_peek_cqe(&ring_, &cqe);
  if (r == -EAGAIN || r == -EINTR) return {};
  if (r < 0) return Error{Errc::kSystem, -r, "waiting for io_uring"};
  Slot& s = slots_[io_uring_cqe_get_data64(cqe)];
  const int32_t res = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  in_flight_--;
  s.used = false;
  if (res < 0 && res != -EAGAIN && res != -EINTR) {
    return Error{Errc::kSystem, -res, "writing the image"};
  }
  const uint64_t done = res > 0 ? static_cast<uint64_t>(res) : 0;
  if (done < s.bytes) return write_now(s.data + done, s.bytes - done, s.off + done);
  return {};
}

Result<void> AsyncWriter::write(const void* data, uint64_t bytes, uint64_t off) {
  if (!ring_tried_ && bytes >= kLeastForRing) {
    ring_tried_ = true;
    ring_ok_ = io_uring_queue_init(static_cast<unsigned>(slots_.size()), &ring_, 0) == 0;
  }
  if (!ring_ok_ || bytes < kLeastForRing) {
    return write_now(static_cast<const uint8_t*>(data), bytes, off);
  }
  while (in_flight_ == slots_.size()) CR_TRYV(reap(true));
  size_t i = 0;
  while (slots_[i].used) i++;
  slots_[i] = {static_cast<const uint8_t*>(data), bytes, off, true};
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    slots_[i].used = false;
    return write_now(static_cast<const uint8_t*>(data), bytes, off);
  }
  io_uring_prep_write(sqe, fd_, data, static_cast<unsigned>(bytes), off);
  io_uring_sqe_set_data64(sqe, i);
  in_flight_++;
  const int r = io_uring_submit(&ring_);
  if (r < 0) return Error{Errc::kSystem, -r, "submitting to io_uring"};
  return {};
}

Result<void> AsyncWriter::drain() {
  while (in_flight_ > 0) CR_TRYV(reap(true));
  return {};
}

}  // namespace cr::store
