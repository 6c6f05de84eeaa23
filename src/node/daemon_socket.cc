// SPDX-License-Identifier: MIT
// daemon_socket.cc - the control socket: where it is, who may connect, lines in and out. See
// daemon.h.
// Invariant: no file is removed that is no socket of an earlier crstored; no client is waited for.
// Context: N; the daemon's own thread. Doc: docs/store.md, "The control socket"; crstored(8).
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/daemon.h"
#include "node/unix_address.h"

namespace cr::node {
namespace {

constexpr size_t kMostRequestBytes = 1 << 20, kMostClients = 1024;

}  // namespace

// Nothing is removed but what an earlier one has left there: a socket to which nobody listens, or
// the link to one.
Result<void> Daemon::make_way(std::string* ret_text) {
  const std::string& path = config_.socket_path;
  struct stat st {};
  if (lstat(path.c_str(), &st) != 0) return {};
  const bool is_link = S_ISLNK(st.st_mode);
  if (is_link && stat(path.c_str(), &st) != 0) st.st_mode = S_IFSOCK;  // it leads nowhere
  if (!S_ISSOCK(st.st_mode)) {
    *ret_text = path + ": there is something else than a socket; remove it if nobody needs it, or "
                       "name another socket with --socket";
    return Error{Errc::kInvalid, ENOTSOCK, "not a socket"};
  }
  CR_TRY(const UnixAddress address, unix_address(path, ret_text));
  // One that is busy lets nobody in for a moment, which is an answer as well.
  const os::Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (connect(probe.get(), address.get(), sizeof(address.address)) == 0 || errno == EAGAIN) {
    *ret_text = path + ": another crstored listens there; stop it, or name another with --socket";
    return Error{Errc::kBusy, EADDRINUSE, "the socket is in use"};
  }
  unlink(path.c_str());
  return {};
}

Result<void> Daemon::listen(std::string* ret_text) {
  const std::string& path = config_.socket_path;
  CR_TRYV(make_way(ret_text));
  CR_TRY(const UnixAddress address, unix_address(path, ret_text));
  listen_ = os::Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t mask = umask(config_.for_all_users ? 0111 : 0177);
  const int bound = bind(listen_.get(), address.get(), sizeof(address.address));
  const int e = errno;
  umask(mask);
  if (bound != 0 || ::listen(listen_.get(), 64) != 0) {
    *ret_text = path + ": cannot listen there: " + strerror(bound != 0 ? e : errno) +
                "; name another socket with --socket";
    listen_.reset();
    return Error{Errc::kSystem, e, "listening"};
  }
  struct stat st {};
  if (stat(path.c_str(), &st) == 0) {
    socket_device_ = st.st_dev;
    socket_inode_ = st.st_ino;
  }
  if (config_.socket_link.empty() || config_.socket_link == path) return {};
  const std::string fresh = config_.socket_link + ".new";
  unlink(fresh.c_str());
  if (symlink(path.c_str(), fresh.c_str()) != 0 ||
      rename(fresh.c_str(), config_.socket_link.c_str()) != 0) {
    *ret_text = config_.socket_link + ": cannot be made: " + strerror(errno);
    return Error{Errc::kSystem, errno, "making the link to the socket"};
  }
  return {};
}

void Daemon::accept_client() {
  os::Fd fd(accept4(listen_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return;
  const bool mine = config_.for_all_users || peer.uid == geteuid() || peer.uid == 0;
  if (!mine || clients_.size() >= kMostClients) return;
  Client c;
  c.fd = std::move(fd);
  c.number = next_client_++;
  c.uid = peer.uid;
  c.gid = peer.gid;
  {
    const std::lock_guard held(mutex_);
    present_.insert(c.number);
  }
  clients_.push_back(std::move(c));
}

bool Daemon::flush_client(Client& c) {
  while (!c.out.empty()) {
    const ssize_t n = send(c.fd.get(), c.out.data(), c.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return c.out.size() < 16 * kMostRequestBytes;
    if (n < 0) return false;
    c.out.erase(0, static_cast<size_t>(n));
  }
  return true;
}

bool Daemon::read_client(Client& c) {
  char buffer[65536];
  const ssize_t n = recv(c.fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
  if (n < 0) return true;
  c.in.append(buffer, static_cast<size_t>(n));
  for (size_t line; (line = c.in.find('\n')) != std::string::npos;) {
    const Json request = parse_json(c.in.substr(0, line));
    c.in.erase(0, line + 1);
    on_request(c, request);
  }
  return c.in.size() < kMostRequestBytes;
}

}  // namespace cr::node
