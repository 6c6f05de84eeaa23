// SPDX-License-Identifier: MIT
// file_put_back.h - makes the files that a session changed what they were at a checkpoint.
// Invariant: the journal is only read, and says what each path and file shall be, not what to do;
// so this can be broken off and done again at any time.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Files that the session writes".
#pragma once

#include <string>
#include <vector>

#include "agent/file_journal.h"

namespace cr::agent {

struct PutBack {
  std::vector<std::string> changed;   // what is not as it was, in words
  std::vector<std::string> warnings;  // what could not be put back
};

// only_look: nothing is changed.
Trouble put_files_back(const std::string& image_dir, const JournalState& state, bool only_look,
                       PutBack* ret);

}  // namespace cr::agent
