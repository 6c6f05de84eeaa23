// SPDX-License-Identifier: MIT
// client.cc - see client.h. Invariant: as there. Context: N.
#include "node/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/private_start.h"
#include "node/unix_address.h"
#include "rawsys/rawsys.h"

namespace cr::node {

std::string default_socket_path() {
  const std::string set = socket_of_environment();
  if (!set.empty() && set != kPrivateSocket) return set;
  if (const char* run = getenv("XDG_RUNTIME_DIR"); run != nullptr && *run != '\0') {
    const std::string own = std::string(run) + "/crstored.sock";
    if (geteuid() != 0 || access(own.c_str(), F_OK) == 0) {
      if (access(own.c_str(), F_OK) == 0 || access("/run/crstored.sock", F_OK) != 0) return own;
    }
  }
  return "/run/crstored.sock";
}

Result<Client> Client::connect(const std::string& path, std::string* ret_text) {
  CR_TRY(const UnixAddress address, unix_address(path, ret_text));
  os::Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), address.get(), sizeof(address.address)) != 0) {
    const int e = errno;
    *ret_text = path + ": no crstored answers there (" + strerror(e) +
                "); start one with `crstored`, or name its socket in CR_STORE_SOCKET";
    return Error{Errc::kSystem, e, "connecting to crstored"};
  }
  ucred peer{};
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 ||
      (peer.uid != 0 && peer.uid != geteuid())) {
    *ret_text = path + ": the crstored there is another user's (uid " + std::to_string(peer.uid) +
                "); use your own or the one of root";
    return Error{Errc::kPermission, EPERM, "crstored is another user's"};
  }
  return Client(std::move(fd));
}

bool Client::send(const Json& message) {
  if (gone_) return false;
  out_ += dump_json(message) + "\n";
  while (!out_.empty()) {
    const ssize_t n = ::send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return out_.size() < (1 << 20);
    if (n < 0) {
      gone_ = true;
      return false;
    }
    out_.erase(0, static_cast<size_t>(n));
  }
  return true;
}

std::optional<Json> Client::receive(int milliseconds) {
  const uint64_t end = rawsys::now_ns() + static_cast<uint64_t>(milliseconds) * 1'000'000;
  for (;;) {
    if (const size_t line = in_.find('\n'); line != std::string::npos) {
      Json j = parse_json(in_.substr(0, line));
      in_.erase(0, line + 1);
      return j;
    }
    if (gone_) {  // it may have said why
      char last[4096];
      const ssize_t n = recv(fd_.get(), last, sizeof(last), MSG_DONTWAIT);
      if (n <= 0) return std::nullopt;
      in_.append(last, static_cast<size_t>(n));
      continue;
    }
    const uint64_t now = rawsys::now_ns();
    pollfd p{fd_.get(), static_cast<short>(POLLIN | (out_.empty() ? 0 : POLLOUT)), 0};
    const int left = now < end ? static_cast<int>((end - now) / 1'000'000 + 1) : 0;
    const int ready = poll(&p, 1, left);
    if (ready == 0) return std::nullopt;
    if (ready < 0 && errno != EINTR) gone_ = true;
    if (ready < 0) continue;
    if ((p.revents & POLLOUT) != 0 && !out_.empty()) {
      const ssize_t n = ::send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) out_.erase(0, static_cast<size_t>(n));
    }
    if ((p.revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
    char buffer[65536];
    const ssize_t n = recv(fd_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) gone_ = true;
    if (n > 0) in_.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace cr::node
