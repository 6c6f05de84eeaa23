// SPDX-License-Identifier: MIT
// fd.cc - see fd.h. Invariant: as there. Context: N.
#include "os/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cr::os {

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Result<void> Fd::close() {
  const int fd = release();
  if (fd >= 0 && ::close(fd) != 0) return Error{Errc::kSystem, errno, "closing"};
  return {};
}

Fd copy_of_fd(int pidfd, pid_t tid, int fd) {
  constexpr unsigned kThread = O_EXCL;  // PIDFD_THREAD, Linux 6.9
  Fd copy(static_cast<int>(syscall(__NR_pidfd_getfd, pidfd, fd, 0)));
  if (copy || errno != ESRCH) return copy;
  // The first thread has ended, and with it goes what a pidfd of the process leads to.
  const Fd thread(static_cast<int>(syscall(__NR_pidfd_open, tid, kThread)));
  return Fd(static_cast<int>(thread ? syscall(__NR_pidfd_getfd, thread.get(), fd, 0) : -1));
}

void Mapping::reset() {
  if (data_ != nullptr) munmap(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

Result<Mapping> Mapping::map(int fd, size_t bytes, int prot, int flags) {
  if (bytes == 0) return Mapping();
  void* p = mmap(nullptr, bytes, prot, flags, fd, 0);
  if (p == MAP_FAILED) return Error{Errc::kSystem, errno, "mapping"};
  return Mapping(p, bytes);
}

Result<Fd> open_file(const std::string& path, int flags, unsigned mode) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return Error{Errc::kSystem, errno, "opening"};
  return Fd(fd);
}

Result<std::string> read_file(const std::string& path) {
  CR_TRY(Fd fd, open_file(path, O_RDONLY));
  std::string all;
  char chunk[16384];
  for (;;) {
    const ssize_t r = read(fd.get(), chunk, sizeof(chunk));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return Error{Errc::kSystem, errno, "reading"};
    if (r == 0) return all;
    all.append(chunk, static_cast<size_t>(r));
  }
}

Result<std::string> read_link(const std::string& path) {
  char buf[PATH_MAX + 1];
  const ssize_t r = readlink(path.c_str(), buf, sizeof(buf));
  if (r < 0) return Error{Errc::kSystem, errno, "readlink"};
  return std::string(buf, static_cast<size_t>(r));
}

Result<Fd> make_memfd(const char* name) {
  const int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) return Error{Errc::kSystem, errno, "memfd_create"};
  return Fd(fd);
}

}  // namespace cr::os
