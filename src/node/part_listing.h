// SPDX-License-Identifier: MIT
// part_listing.h - what was read of parts when they were listed last, so that a part that nobody
// has written since is not read again: a listing reads the header of each file then.
// Invariant: an entry is told of a file only as long as its header, each byte of it, its size and
// both of its times are as they were before it was read; a header that is being written has another
// WRITE_LOCK. What a disk changes by itself shows when the part is read or verified.
// Context: N; any thread.
#pragma once

#include <stdint.h>

#include <array>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "format/node_messages.h"
#include "format/part.h"

namespace cr::node {

// By which a file is known again.
struct PartStamp {
  uint64_t device = 0, inode = 0, bytes = 0;
  int64_t modified_ns = 0, changed_ns = 0;
  std::array<uint8_t, sizeof(format::PartHeader)> header{};

  bool operator==(const PartStamp&) const = default;
};

class PartListing {
 public:
  // nullopt: it is another file now, or was never read, or cannot be. *ret_stamp: for note().
  std::optional<format::PartEntry> find(const std::string& path, PartStamp* ret_stamp) const;
  // stamp: from find(), before the part was read.
  void note(const std::string& path, const PartStamp& stamp, const format::PartEntry& entry);
  // Lets go of all others.
  void keep_only(const std::set<std::string>& paths);

 private:
  struct Known {
    PartStamp stamp;
    format::PartEntry entry;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Known> known_;  // by path
};

}  // namespace cr::node
