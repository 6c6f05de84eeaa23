// SPDX-License-Identifier: MIT
// file.cc - see file.h. Invariant: as there. Context: N.
#include "store/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <mutex>

#include "rawsys/rawsys.h"
#include "store/rate_limit.h"

namespace cr::store {
namespace {

StorageObserver* g_observer = nullptr;

void tell(const StorageStep& step) {
  if (g_observer != nullptr) g_observer->step(step);
}

unsigned g_depth = WriteLimits().depth;
bool g_direct = false;

// The bound of bytes per second that all threads share.
class Brake {
 public:
  void set(uint64_t bytes_per_second) {
    const std::lock_guard held(mutex_);
    limit_ = RateLimit(bytes_per_second);
    is_on_ = bytes_per_second != 0;
  }
  // Returns when these bytes may be written.
  void wait(uint64_t bytes) {
    if (!is_on_) return;
    uint64_t free_ns = 0;
    {
      const std::lock_guard held(mutex_);
      free_ns = limit_.free_ns();
      limit_.spend(rawsys::now_ns(), bytes);
    }
    const timespec until{static_cast<time_t>(free_ns / kSecond),
                         static_cast<long>(free_ns % kSecond)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
    }
  }

 private:
  static constexpr uint64_t kSecond = 1'000'000'000;
  bool is_on_ = false;
  std::mutex mutex_;
  RateLimit limit_{0};
};
Brake g_brake;

// What cannot be synchronized at all (some file systems in user space) answers EINVAL.
bool failed_to_sync(int result) { return result != 0 && errno != EINVAL && errno != ENOTSUP; }

}  // namespace

void observe_storage(StorageObserver* observer) { g_observer = observer; }

void limit_writes(const WriteLimits& limits) {
  g_depth = limits.depth;
  g_direct = limits.direct;
  g_brake.set(limits.bytes_per_second);
}

Result<std::unique_ptr<File>> File::open(const std::string& path, Mode mode) {
  const int how = O_RDWR | O_CLOEXEC | O_NOFOLLOW;
  os::Fd fd;
  if (mode == Mode::kExisting) {
    fd = os::Fd(::open(path.c_str(), how));
  } else {
    if (unlink(path.c_str()) == 0) tell({.kind = StorageStep::kRemove, .path = path});
    fd = os::Fd(::open(path.c_str(), how | O_CREAT | O_EXCL, 0600));
  }
  if (!fd) return Error{Errc::kSystem, errno, "opening the image file for writing"};
  if (mode == Mode::kEmpty) tell({.kind = StorageStep::kCreate, .path = path});
  os::Fd direct;
  if (g_direct && !is_in_memory(fd.get())) {  // the same file, whatever has its name by now
    const std::string again = "/proc/self/fd/" + std::to_string(fd.get());
    direct = os::Fd(::open(again.c_str(), O_WRONLY | O_CLOEXEC | O_DIRECT));
  }
  return std::unique_ptr<File>(new File(path, std::move(fd), std::move(direct), g_depth));
}

std::string why_not_direct(const std::string& path) {
  std::string dir = path;
  os::Fd fd;
  while (!(fd = os::Fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)))) {
    const size_t slash = dir.find_last_of('/');
    if (errno != ENOENT || slash == std::string::npos) return "";
    dir.resize(slash > 0 ? slash : 1);
  }
  if (is_in_memory(fd.get())) return dir + " is in memory (tmpfs), there is no disk to write to";
  const os::Fd file(openat(fd.get(), ".", O_WRONLY | O_TMPFILE | O_CLOEXEC | O_DIRECT, 0600));
  if (file || errno != EINVAL) return "";
  return dir + " is on a file system that has no O_DIRECT";
}

Result<void> File::write(const void* data, uint64_t bytes, uint64_t off) {
  g_brake.wait(bytes);
  tell({.kind = StorageStep::kWrite, .path = path_, .data = data, .off = off, .bytes = bytes});
  return out_.write(data, bytes, off);
}

Result<void> File::drain() {
  CR_TRYV(out_.drain());
  tell({.kind = StorageStep::kDrain, .path = path_});
  return {};
}

Result<void> File::barrier(bool durable) {
  CR_TRYV(drain());
  if (!durable) return {};
  if (failed_to_sync(fdatasync(fd_.get()))) {
    return Error{Errc::kSystem, errno, "making it durable (fdatasync)"};
  }
  tell({.kind = StorageStep::kSync, .path = path_});
  return {};
}

Result<void> File::truncate(uint64_t bytes) {
  if (ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) {
    return Error{Errc::kSystem, errno, "setting its size"};
  }
  tell({.kind = StorageStep::kTruncate, .path = path_, .off = bytes});
  return {};
}

bool File::punch(uint64_t off, uint64_t bytes) {
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(off),
                static_cast<off_t>(bytes)) != 0) {
    return false;
  }
  tell({.kind = StorageStep::kPunch, .path = path_, .off = off, .bytes = bytes});
  return true;
}

Result<void> make_directory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0) {
    return Error{Errc::kSystem, errno, "making the image directory"};
  }
  tell({.kind = StorageStep::kMakeDirectory, .path = path});
  return {};
}

Result<void> make_empty_file(const std::string& path) {
  os::Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd && errno == EEXIST) return {};
  if (!fd) return Error{Errc::kSystem, errno, "making a file in the image directory"};
  tell({.kind = StorageStep::kCreate, .path = path});
  return {};
}

Result<void> rename_file(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) {
    return Error{Errc::kSystem, errno, "renaming an image"};
  }
  tell({.kind = StorageStep::kRename, .path = from, .to = &to});
  return {};
}

Result<void> remove_file(const std::string& path) {
  if (unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return {};
    return Error{Errc::kSystem, errno, "removing a file of an earlier run"};
  }
  tell({.kind = StorageStep::kRemove, .path = path});
  return {};
}

Result<void> sync_directory(const std::string& path) {
  os::Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return Error{Errc::kSystem, errno, "opening the directory to make its names durable"};
  if (failed_to_sync(fsync(fd.get()))) {
    return Error{Errc::kSystem, errno, "making the names of the images durable (fsync)"};
  }
  tell({.kind = StorageStep::kSyncDirectory, .path = path});
  return {};
}

Result<void> sync_parent(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  const std::string parent =
      slash == std::string::npos ? "." : path.substr(0, slash + (slash == 0));
  auto synced = sync_directory(parent);
  if (synced || synced.error().sys_errno != EACCES) return synced;
  // It may be entered but not read; its file system as a whole can still be asked for.
  os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || failed_to_sync(syncfs(fd.get()))) return synced;
  tell({.kind = StorageStep::kSyncDirectory, .path = parent});
  return {};
}

Result<void> sync_file(const std::string& path) {
  os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) {
    if (errno == ENOENT) return {};
    return Error{Errc::kSystem, errno, "opening an image to make it durable"};
  }
  if (failed_to_sync(fdatasync(fd.get()))) {
    return Error{Errc::kSystem, errno, "making an image durable (fdatasync)"};
  }
  tell({.kind = StorageStep::kSync, .path = path});
  return {};
}

}  // namespace cr::store
