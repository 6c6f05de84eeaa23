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
  // The checkpoint has got to level 2 or 3, the first time: its record says so from now on, if it
  // is still there. after_ns: since it was whole; 0: since then by the clock.
  void note_level(int level, uint64_t epoch, uint64_t sequence, uint64_t after_ns);

 private:
  std::string open();
  std::string begin_anew(const char* why);
  std::string failed(const std::string& what);
  bool reopen();
  std::string write_header(int fd);
  bool read_back(uint64_t number, format::HistoryRecord* ret);

  std::string path_;
  os::Fd fd_;
  uint64_t next_ = 0;
  bool failing_ = false;  // said so already
};

// Oldest first; gaps where records were lost. An error if the file is none of ours or damaged as a
// whole; empty if there is none.
Result<std::vector<format::HistoryRecord>> load_history(const std::string& dir);

}  // namespace cr::agent
