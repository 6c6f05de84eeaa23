// SPDX-License-Identifier: MIT
// part_listing.cc - see part_listing.h. Invariant: as there. Context: N.
#include "node/part_listing.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/fd.h"

namespace cr::node {
namespace {

int64_t in_ns(const timespec& t) { return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; }

// false: it cannot be read, or is too short.
bool look_at(const std::string& path, PartStamp* ret, uint64_t* ret_stored_bytes) {
  const os::Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat st;
  if (!fd || fstat(fd.get(), &st) != 0) return false;
  ret->device = st.st_dev;
  ret->inode = st.st_ino;
  ret->bytes = static_cast<uint64_t>(st.st_size);
  ret->modified_ns = in_ns(st.st_mtim);
  ret->changed_ns = in_ns(st.st_ctim);
  *ret_stored_bytes = static_cast<uint64_t>(st.st_blocks) * 512;
  const auto bytes = static_cast<ssize_t>(ret->header.size());
  return pread(fd.get(), ret->header.data(), ret->header.size(), 0) == bytes;
}

}  // namespace

std::optional<format::PartEntry> PartListing::find(const std::string& path,
                                                   PartStamp* ret_stamp) const {
  uint64_t stored_bytes = 0;
  *ret_stamp = {};
  if (!look_at(path, ret_stamp, &stored_bytes)) {
    *ret_stamp = {};
    return std::nullopt;
  }
  const std::lock_guard held(mutex_);
  const auto at = known_.find(path);
  if (at == known_.end() || at->second.stamp != *ret_stamp) return std::nullopt;
  format::PartEntry entry = at->second.entry;
  entry.stored_bytes = stored_bytes;
  return entry;
}

void PartListing::note(const std::string& path, const PartStamp& stamp,
                       const format::PartEntry& entry) {
  const std::lock_guard held(mutex_);
  known_[path] = {stamp, entry};
}

void PartListing::keep_only(const std::set<std::string>& paths) {
  const std::lock_guard held(mutex_);
  std::erase_if(known_, [&](const auto& k) { return !paths.contains(k.first); });
}

}  // namespace cr::node
