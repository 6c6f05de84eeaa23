// SPDX-License-Identifier: MIT
// find_path.h - a path of a file of which only device and inode are known.
// Invariant: the path leads to that very file; the search is bounded. Context: N (agent).
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

namespace cr::agent {

// As /proc/PID/fdinfo shows it and open_by_handle_at(2) takes it.
struct FileHandle {
  static constexpr uint32_t kMostBytes = 128;
  int type = 0;
  std::string bytes;  // empty: none
};

// By its handle, which takes CAP_DAC_READ_SEARCH, else where it was last time, else by looking
// through the directories `places` and what lies above them, and through /tmp. "": not found.
std::string find_path(uint64_t dev, uint64_t ino, const FileHandle& handle,
                      const std::vector<std::string>& places);

}  // namespace cr::agent
