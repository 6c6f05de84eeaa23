// SPDX-License-Identifier: MIT
// rollback_sockets.h - restore() in place: sockets that are what they were, but for what waits in
// them.
// Invariant: find() changes nothing; what cannot be put back for sure is refused.
// Context: N (agent), while the program is stopped. Doc: docs/ARCHITECTURE.md, "restore() in
// place".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/restore_sockets.h"

namespace cr::agent {

class SocketRefill {
 public:
  // Why it cannot be done in place; "" if it can. The image must outlive this object.
  std::string find(const format::ImageView& image, int pidfd, pid_t tid);
  // "" or what went wrong.
  std::string put_back();

 private:
  std::vector<std::string> warnings_;
  Undo undo_;
  SocketMaker maker_{warnings_, undo_};
  std::vector<uint64_t> changed_;
};

}  // namespace cr::agent
