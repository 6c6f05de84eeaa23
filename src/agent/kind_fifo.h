// SPDX-License-Identifier: MIT
// kind_fifo.h - named FIFOs.
// Invariant: opening one never waits; what is in a FIFO that others use is never touched.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One restore".
#pragma once

#include <map>

#include "agent/kinds.h"

namespace cr::agent {

Trouble describe_fifo(const Program& program, const Descriptor& d, format::FileRecord& f);

// Its content is the process's own: nobody else had it open, as far as it can be told.
bool owns_content(const format::FileRecord& f);

// Opens the descriptors of one image again, one after the other. While it lives every FIFO whose
// content is the process's own has a reader and a writer.
class FifoOpener {
 public:
  // live: a process that is still there has them open, and gives them up.
  explicit FifoOpener(bool live) : live_(live) {}
  Trouble open(const SavedFile& f, os::Fd* ret);

 private:
  Trouble fill(const SavedFile& f);

  bool live_;
  std::map<std::pair<uint64_t, uint64_t>, os::Fd> both_ways_;  // by device and inode then
};

}  // namespace cr::agent
