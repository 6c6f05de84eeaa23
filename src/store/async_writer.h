// SPDX-License-Identifier: MIT
// async_writer.h - large writes to one file, many in flight, through io_uring; small ones, and all
// where it is forbidden or the file is in memory (tmpfs), by pwrite.
// Invariant: after drain() returned without error every byte was accepted by the kernel.
// Context: N. Used by store::File alone (file.h).
#pragma once

#include <liburing.h>
#include <stdint.h>

#include <vector>

#include "base/base.h"

namespace cr::store {

// Then a write is a copy, which the ring would have another thread of the kernel do, behind a lock
// that lets one write to the file at a time.
bool is_in_memory(int fd);

class AsyncWriter {
 public:
  // fds stay the caller's. direct: the same file, opened with O_DIRECT, for large writes of whole
  // pages from whole pages; negative: none. depth: writes in flight, at least 1.
  AsyncWriter(int fd, int direct, unsigned depth);
  ~AsyncWriter();
  AsyncWriter(const AsyncWriter&) = delete;
  AsyncWriter& operator=(const AsyncWriter&) = delete;

  // `data` must stay until drain().
  Result<void> write(const void* data, uint64_t bytes, uint64_t off);
  // Waits for all writes, also if one fails; the first error counts.
  Result<void> drain();

 private:
  struct Slot {
    const uint8_t* data;
    uint64_t bytes, off;
    bool used;
  };
  Result<void> reap();
  Result<void> write_now(const uint8_t* data, uint64_t bytes, uint64_t off);

  int fd_, direct_;
  bool ring_tried_ = false, ring_ok_ = false, takes_more_ = false;
  io_uring ring_{};
  std::vector<Slot> slots_;
  unsigned in_flight_ = 0;
  Error error_;  // of the first write that failed since drain()
};

}  // namespace cr::store
