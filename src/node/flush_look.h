// SPDX-License-Identifier: MIT
// flush_look.h - looking at what is flushed, on a file system that may not answer.
// Invariant: the caller waits no longer than it says; a thread that the file system holds up is
// left behind, and there are not many of them.
// Context: N; any thread. Doc: docs/store.md.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/flush_file.h"

namespace cr::node {

struct FlushListing {
  std::vector<FlushedFile> files;
  std::vector<std::string> bad;  // lines; see list_flushed()
};

class FlushLook {
 public:
  explicit FlushLook(std::string dir);
  const std::string& dir() const { return dir_; }
  // nullopt: no answer in that time, or as long as somebody wanted it.
  std::optional<FlushListing> list(uint64_t ns, const std::function<bool()>& wanted = {}) const;

 private:
  struct Shared;
  const std::string dir_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace cr::node
