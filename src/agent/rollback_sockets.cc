// SPDX-License-Identifier: MIT
// rollback_sockets.cc - see rollback_sockets.h. Invariant: as there. Context: N (agent).
#include "agent/rollback_sockets.h"

#include <fcntl.h>

#include <algorithm>

#include "agent/compare_sockets.h"

namespace cr::agent {

std::string SocketRefill::find(const format::ImageView& image, int pidfd, pid_t tid) {
  const auto found = compare_sockets(image, pidfd, tid);
  for (const format::FileRecord& f : image.files) {
    if (f.kind != format::kFileSocket) continue;
    const auto at = found.find(f.ino);
    if (at == found.end()) {
      return "the socket " + std::string(image.string(f.path)) + " is not as it was";
    }
    if (at->second == SocketChange::kQueue) changed_.push_back(f.ino);
  }
  if (changed_.empty()) return "";
  const auto signals = [](const format::FileRecord& f) {
    return f.kind == format::kFileSocket && (f.open_flags & O_ASYNC) != 0;
  };
  if (std::ranges::any_of(image.files, signals)) return "sockets that signal have been used";
  maker_.add(image);
  for (const auto& [ino, change] : found) {
    os::Fd fd = live_socket(image, ino, pidfd);
    if (fd) maker_.keep(ino, std::move(fd));
  }
  for (const uint64_t ino : changed_) {
    const std::string why = maker_.why_not_refilled(ino);
    if (!why.empty()) return "socket:[" + std::to_string(ino) + "] " + why;
  }
  return "";
}

std::string SocketRefill::put_back() {
  for (const uint64_t ino : changed_) {
    const Trouble bad = maker_.refill(ino);
    if (bad.bad()) return bad.text;
  }
  return "";
}

}  // namespace cr::agent
