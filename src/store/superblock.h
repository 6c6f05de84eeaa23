// SPDX-License-Identifier: MIT
// superblock.h - the superblock of a buffer, of which nothing else is looked at.
// Invariant: only the superblock's own checksum is compared; whether the buffer is whole, and good,
// load_buffer() says.
// Context: N. Doc: docs/format/image.md.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "format/image_reader.h"
#include "os/fd.h"
#include "store/buffer.h"

namespace cr::store {

// kSystem: it cannot be opened; kNotWhole: it is too short; else as read_superblock().
inline Result<format::SuperBlock> read_super(const std::string& dir, int index) {
  CR_TRY(const os::Fd fd,
         os::open_file(buffer_path(dir, index), O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  uint8_t bytes[sizeof(format::SuperBlock)];
  if (pread(fd.get(), bytes, sizeof(bytes), 0) != static_cast<ssize_t>(sizeof(bytes))) {
    return Error{Errc::kNotWhole, 0, "there is no superblock"};
  }
  return format::read_superblock(bytes, sizeof(bytes));
}

}  // namespace cr::store
