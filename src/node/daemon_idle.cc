// SPDX-License-Identifier: MIT
// daemon_idle.cc - how a crstored ends by itself when nobody has needed it for a while; see
// daemon.h.
// Invariant: who has connected is served; who connects later finds no socket, and starts another
// one when this one is gone.
// Context: N; the daemon's own thread. Doc: docs/store.md, "A private crstored".
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "node/daemon.h"

namespace cr::node {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr int kBacklog = 64;
constexpr int kLingerMs = 10;  // for those that looked the socket up just before it was removed

bool somebody_waits(int listen_fd, int milliseconds) {
  pollfd p{listen_fd, POLLIN, 0};
  return poll(&p, 1, milliseconds) > 0;
}

}  // namespace

// A session, a client, a neighbour's part on its way, a repair, something that is to be flushed.
bool Daemon::is_needed() {
  if (!clients_.empty() || !sessions_.empty() || !repairs_.empty() || !mending_.empty())
    return true;
  if (holder_ && holder_->transfers() != 0) return true;
  if (flush_ && !flush_->is_idle()) return true;
  if (!requests_->is_idle() || !own_threads_->is_idle()) return true;
  const std::lock_guard held(mutex_);
  return !tasks_.empty();
}

// true: nobody needs it, and nobody can reach it any more.
bool Daemon::leave_if_idle(uint64_t now, uint64_t* next) {
  if (config_.exit_when_idle_ns == 0) return false;
  if (is_needed()) {
    idle_since_ns_ = 0;
    return false;
  }
  if (idle_since_ns_ == 0) idle_since_ns_ = now;
  const uint64_t due = idle_since_ns_ + config_.exit_when_idle_ns;
  *next = std::min(*next, std::max(due, now + 1'000'000));
  if (now < due) return false;
  if (!config_.start_lock.empty()) {  // until we are gone nobody starts another one
    leaving_ = os::Fd(open(config_.start_lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!leaving_ || flock(leaving_.get(), LOCK_EX | LOCK_NB) != 0) {
      leaving_.reset();
      *next = std::min(*next, now + kSecond / 10);
      return false;
    }
  }
  if (is_socket_ours()) unlink(config_.socket_path.c_str());
  if (!somebody_waits(listen_.get(), kLingerMs)) {
    log_("nobody has needed it for " + std::to_string(config_.exit_when_idle_ns / 1'000'000) +
         " ms");
    listen_.reset();
    return true;
  }
  for (int i = 0; i < kBacklog && somebody_waits(listen_.get(), 0); i++) accept_client();
  std::string text;
  if (const auto again = listen(&text); !again) log_(text);
  leaving_.reset();
  idle_since_ns_ = 0;
  *next = now;
  return false;
}

bool Daemon::is_socket_ours() const {
  struct stat st;
  return stat(config_.socket_path.c_str(), &st) == 0 && st.st_dev == socket_device_ &&
         st.st_ino == socket_inode_;
}

// $XDG_RUNTIME_DIR is removed at the user's last logout, though sessions go on. They connect again,
// and start a private one that listens elsewhere.
bool Daemon::has_lost_socket(uint64_t now) {
  if (config_.start_lock.empty() || now < socket_look_ns_) return false;
  socket_look_ns_ = now + kSecond;
  if (is_socket_ours()) return false;
  log_(config_.socket_path + ": the socket was removed");
  return true;
}

}  // namespace cr::node
