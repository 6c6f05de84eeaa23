// SPDX-License-Identifier: MIT
// history.h - the history of a session's checkpoints: written by its agent, read by the tools.
// Invariant: whatever is wrong with the file, a checkpoint never fails for it.
// Context: N. Doc: docs/format/history.md.
#pragma once

#include <string>
#include <vector>

#include "format/history.h"
#include "os/fd.h"

namespace cr::agent {

class History {
 public:
  explicit History(const std::string& dir);

  // Writes the record, with its number, by one pwrite. Returns words for the user if that failed,
  // or the file had to be begun anew; "" if not, and if they were said before.
  std::string append(format::HistoryRecord record);

 private:
  std::string open();
  std::string begin_anew(const char* why);
  std::string failed(const std::string& what);

  std::string path_;
  os::Fd fd_;
  uint64_t next_ = 0;
  bool failing_ = false;  // said so already
};

// Oldest first; gaps where records were lost. An error if the file is none of ours or damaged as a
// whole; empty if there is none.
Result<std::vector<format::HistoryRecord>> load_history(const std::string& dir);

}  // namespace cr::agent
