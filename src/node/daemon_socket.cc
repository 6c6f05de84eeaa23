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

#include <algorithm>

#include "node/daemon.h"
#include "node/unix_address.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

constexpr size_t kMostRequestBytes = 1 << 20;
constexpr size_t kMostClients = 1024, kMostOfUser = 128, kKeptPlaces = 64;
constexpr uint64_t kAcceptPauseNs = 200'000'000, kSayAgainNs = 60'000'000'000;

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
    *ret_text = path +
                ": there is something else than a socket; remove it if nobody needs it, or "
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

// Why one more of that user is not let in; "": it is. Some places are for root and our own user
// alone, so that these can always see what is the matter.
std::string Daemon::too_many_clients(uint32_t uid) const {
  if (uid == 0 || uid == geteuid()) {
    return clients_.size() < kMostClients ? "" : std::to_string(kMostClients) + " clients are";
  }
  const auto own = static_cast<size_t>(std::ranges::count(clients_, uid, &Client::uid));
  if (own >= kMostOfUser) return std::to_string(own) + " clients of yours are";
  if (clients_.size() < kMostClients - kKeptPlaces) return "";
  return std::to_string(clients_.size()) + " clients are";
}

void Daemon::accept_client() {
  os::Fd fd(accept4(listen_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) {
    if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS) return;
    // Who waits goes on waiting, without our asking for it all the time.
    if (now_ns() - accept_ns_ > kSayAgainNs) {
      log_(config_.socket_path + ": nobody can be let in: " + strerror(errno) +
           "; raise the limit of crstored's descriptors (ulimit -n, LimitNOFILE)");
    }
    accept_ns_ = now_ns() + kAcceptPauseNs;
    return;
  }
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return;
  const bool mine = config_.for_all_users || peer.uid == geteuid() || peer.uid == 0;
  if (!mine) return;
  if (const std::string why = too_many_clients(peer.uid); !why.empty()) {
    const std::string line =
        dump_json(failure(why + " connected to crstored already; end some of them, or try again "
                                "later")) +
        "\n";
    (void)send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return;
  }
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
