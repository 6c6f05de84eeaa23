// SPDX-License-Identifier: MIT
// file.h - the seam through which everything is written that an image directory holds.
// Invariant: no other code changes an image file, or adds, renames or removes a name beside it (the
// folder `files` is a world of its own, which the program writes to as well); so
// whoever observes this sees every step, and tests/unit/store/power_loss_test.cc can build what a
// power failure may leave of any of them.
// Context: N. Doc: docs/ARCHITECTURE.md, "What is durable when".
#pragma once

#include <stdint.h>

#include <memory>
#include <string>

#include "os/fd.h"
#include "store/async_writer.h"

namespace cr::store {

// One step, after it was handed to the kernel. Of a write: before it, and `data` is valid only now.
struct StorageStep {
  enum Kind {
    kCreate,         // path: a new, empty file
    kWrite,          // path, data, off, bytes; under way until the next kDrain or kSync of the path
    kTruncate,       // path, off: the new size
    kPunch,          // path, off, bytes: zeros from now on
    kDrain,          // path: the kernel has all writes
    kSync,           // path: ... and they, size and holes are durable; not the file's name
    kMakeDirectory,  // path
    kRename,         // path, to
    kRemove,         // path
    kSyncDirectory,  // path: the names in it are durable
  };
  Kind kind;
  const std::string& path;
  const void* data = nullptr;
  uint64_t off = 0, bytes = 0;
  const std::string* to = nullptr;
};

class StorageObserver {
 public:
  virtual ~StorageObserver() = default;
  virtual void step(const StorageStep& step) = 0;
};
// For tests; nullptr: nobody. Otherwise a step costs a load and a comparison.
void observe_storage(StorageObserver* observer);

// How all Files of this process together are written; to be called before the first is opened.
struct WriteLimits {
  static constexpr unsigned kMostDepth = 1024;
  unsigned depth = 16;            // writes of one file in flight, at least 1
  uint64_t bytes_per_second = 0;  // handed to the kernel; 0: no bound
  bool direct = false;            // large writes go past the page cache (O_DIRECT) where they can
};
void limit_writes(const WriteLimits& limits);
// Why files below this path, or below the nearest directory above it that is there, cannot be
// written past the page cache; "": they can, or nobody knows.
std::string why_not_direct(const std::string& path);

// A file of an image directory, open for writing.
class File {
 public:
  enum class Mode {
    kExisting,  // ENOENT if there is none
    kEmpty,     // made, or emptied if it is there
  };
  static Result<std::unique_ptr<File>> open(const std::string& path, Mode mode);

  // `data` must stay until drain(). Sleeps where WriteLimits wants it.
  Result<void> write(const void* data, uint64_t bytes, uint64_t off);
  Result<void> drain();
  // drain(), and what was done to the file so far is durable if `durable`.
  Result<void> barrier(bool durable);
  Result<void> truncate(uint64_t bytes);
  // The bytes read as zeros. false: not done, the file system cannot.
  bool punch(uint64_t off, uint64_t bytes);

 private:
  File(std::string path, os::Fd fd, os::Fd direct, unsigned depth)
      : path_(std::move(path)),
        fd_(std::move(fd)),
        direct_(std::move(direct)),
        out_(fd_.get(), direct_.get(), depth) {}
  std::string path_;
  os::Fd fd_, direct_;
  AsyncWriter out_;
};

// Names. They are durable after sync_directory().
Result<void> make_directory(const std::string& path);
Result<void> make_empty_file(const std::string& path);
Result<void> rename_file(const std::string& from, const std::string& to);
Result<void> remove_file(const std::string& path);
Result<void> sync_directory(const std::string& path);
// The same for the directory that `path` is in.
Result<void> sync_parent(const std::string& path);
// What others wrote to a file earlier is durable from now on; nothing happens if it is not there.
Result<void> sync_file(const std::string& path);

}  // namespace cr::store
