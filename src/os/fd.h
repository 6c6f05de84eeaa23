// SPDX-License-Identifier: MIT
// fd.h - owners of descriptors and mappings, and reading small files.
// Invariant: move-only; a descriptor is closed exactly once. Context: N.
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "base/base.h"

namespace cr::os {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    if (this != &o) {
      reset();
      fd_ = std::exchange(o.fd_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();
  // Closes and says whether writing had failed late.
  Result<void> close();

 private:
  int fd_ = -1;
};

// A copy of a descriptor of another process. tid: a thread of it that lives.
Fd copy_of_fd(int pidfd, pid_t tid, int fd);

class Mapping {
 public:
  Mapping() = default;
  Mapping(void* data, size_t bytes) : data_(static_cast<uint8_t*>(data)), bytes_(bytes) {}
  Mapping(Mapping&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  Mapping& operator=(Mapping&& o) noexcept {
    if (this != &o) {
      reset();
      data_ = std::exchange(o.data_, nullptr);
      bytes_ = std::exchange(o.bytes_, 0);
    }
    return *this;
  }
  ~Mapping() { reset(); }
  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }
  void reset();
  static Result<Mapping> map(int fd, size_t bytes, int prot, int flags);

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

Result<Fd> open_file(const std::string& path, int flags, unsigned mode = 0);
// All of a small (proc) file.
Result<std::string> read_file(const std::string& path);
Result<std::string> read_link(const std::string& path);
Result<Fd> make_memfd(const char* name);

}  // namespace cr::os
