// SPDX-License-Identifier: MIT
// async_writer.cc - see async_writer.h. Invariant: as there. Context: N.
#include "store/async_writer.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace cr::store {

namespace {
// Of a shorter write the kernel's share is done before another thread of it has begun.
constexpr uint64_t kLeastForRing = 64 * 1024;
constexpr uint64_t kAtOnce = 256 * 1024;  // by pwrite

bool is_aligned(const void* data, uint64_t bytes, uint64_t off) {
  return (reinterpret_cast<uintptr_t>(data) | bytes | off) % kPageSize == 0;
}
}  // namespace

bool is_in_memory(int fd) {
  struct statfs s;
  return fstatfs(fd, &s) == 0 && s.f_type == TMPFS_MAGIC;
}

AsyncWriter::AsyncWriter(int fd, int direct, unsigned depth)
    : fd_(fd), direct_(direct), slots_(depth) {}

AsyncWriter::~AsyncWriter() {
  if (!ring_ok_) return;
  while (in_flight_ > 0 && reap()) {
  }
  io_uring_queue_exit(&ring_);
}

Result<void> AsyncWriter::write_now(const uint8_t* data, uint64_t bytes, uint64_t off) {
  while (bytes > 0) {
    const ssize_t r = pwrite(fd_, data, std::min(bytes, kAtOnce), static_cast<off_t>(off));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return Error{Errc::kSystem, errno, "writing"};
    if (r == 0) return Error{Errc::kSystem, EIO, "writing"};
    data += r;
    bytes -= static_cast<uint64_t>(r);
    off += static_cast<uint64_t>(r);
  }
  return {};
}

// Waits for the end of one write. An error of it is noted; what is returned is one of the ring.
Result<void> AsyncWriter::reap() {
  io_uring_cqe* cqe = nullptr;
  const int r = io_uring_wait_cqe(&ring_, &cqe);
  if (r == -EAGAIN || r == -EINTR) return {};
  if (r < 0) return Error{Errc::kSystem, -r, "waiting for io_uring"};
  Slot& s = slots_[io_uring_cqe_get_data64(cqe)];
  const int32_t res = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  in_flight_--;
  s.used = false;
  Result<void> written;
  // -EINVAL: the file system wants more than whole pages for O_DIRECT.
  if (res < 0 && res != -EAGAIN && res != -EINTR && !(res == -EINVAL && direct_ >= 0)) {
    written = Error{Errc::kSystem, -res, "writing"};
  } else if (const uint64_t done = res > 0 ? static_cast<uint64_t>(res) : 0; done < s.bytes) {
    written = write_now(s.data + done, s.bytes - done, s.off + done);
  }
  if (!written && error_.code == Errc::kOk) error_ = written.error();
  return {};
}

Result<void> AsyncWriter::write(const void* data, uint64_t bytes, uint64_t off) {
  if (!ring_tried_ && bytes >= kLeastForRing) {
    ring_tried_ = true;
    ring_ok_ = !is_in_memory(fd_) &&
               io_uring_queue_init(static_cast<unsigned>(slots_.size()), &ring_, 0) == 0;
    takes_more_ = ring_ok_;
  }
  if (!takes_more_ || bytes < kLeastForRing) {
    return write_now(static_cast<const uint8_t*>(data), bytes, off);
  }
  while (in_flight_ == slots_.size()) CR_TRYV(reap());
  if (error_.code != Errc::kOk) return error_;  // drain() still waits for the others
  size_t i = 0;
  while (slots_[i].used) i++;
  slots_[i] = {static_cast<const uint8_t*>(data), bytes, off, true};
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    slots_[i].used = false;
    return write_now(static_cast<const uint8_t*>(data), bytes, off);
  }
  const int fd = direct_ >= 0 && is_aligned(data, bytes, off) ? direct_ : fd_;
  io_uring_prep_write(sqe, fd, data, static_cast<unsigned>(bytes), off);
  io_uring_sqe_set_data64(sqe, i);
  int r = 0;
  do {
    r = io_uring_submit(&ring_);
  } while (r == -EINTR);
  if (r < 0) {
    // The ring keeps what it was given, so it is not used any more; who waits must not wait for it.
    takes_more_ = false;
    return write_now(static_cast<const uint8_t*>(data), bytes, off);
  }
  in_flight_++;
  return {};
}

Result<void> AsyncWriter::drain() {
  while (in_flight_ > 0) CR_TRYV(reap());
  const Error error = std::exchange(error_, Error{});
  if (error.code != Errc::kOk) return error;
  return {};
}

}  // namespace cr::store
