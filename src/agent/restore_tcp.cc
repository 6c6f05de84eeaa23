// SPDX-License-Identifier: MIT
// restore_tcp.cc - see restore_sockets.h: connections of TCP, without privileges.
// Invariant: as there; a connection inside has the same ports at both ends.
// Context: N (agent).
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

#include "agent/left_over.h"
#include "agent/restore_sockets.h"
#include "agent/socket_diag.h"

namespace cr::agent {
namespace {

constexpr int kConnectMs = 5000;

const sockaddr* as_sockaddr(const std::string& a) {
  return reinterpret_cast<const sockaddr*>(a.data());
}

socklen_t length(const std::string& a) { return static_cast<socklen_t>(a.size()); }

bool wait_for(int fd, short events, int ms) {
  pollfd p{fd, events, 0};
  return poll(&p, 1, ms) > 0;
}

// As long as the connection that was there before is not a second old.
int connect_patiently(int fd, const std::string& to) {
  constexpr int kTries = 60, kStepMs = 50;
  int r = -1;
  for (int tries = 0; tries < kTries; tries++) {
    r = connect(fd, as_sockaddr(to), length(to));
    if (r == 0 || errno != EADDRNOTAVAIL) break;
    poll(nullptr, 0, kStepMs);
  }
  return r;
}

bool is_free(const std::string& local) {
  sa_family_t family;
  memcpy(&family, local.data(), sizeof(family));
  const os::Fd probe(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(probe.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  return bind(probe.get(), as_sockaddr(local), length(local)) == 0;
}

std::string loopback(uint32_t family, bool mapped) {
  if (family == AF_INET) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return {reinterpret_cast<const char*>(&a), sizeof(a)};
  }
  sockaddr_in6 a{};
  a.sin6_family = AF_INET6;
  a.sin6_addr = in6addr_loopback;
  if (mapped) {
    a.sin6_addr = {};
    a.sin6_addr.s6_addr[10] = a.sin6_addr.s6_addr[11] = 0xff;
    a.sin6_addr.s6_addr[12] = 127;
    a.sin6_addr.s6_addr[15] = 1;
  }
  return {reinterpret_cast<const char*>(&a), sizeof(a)};
}

}  // namespace

bool SocketMaker::listens_at(uint16_t port) const {
  return std::ranges::any_of(items_, [port](const Item& i) {
    return i.is_tcp() && i.is(format::kSocketListening) && port_of(i.local) == port;
  });
}

Trouble SocketMaker::connect_from(Item& i, const std::string& to) {
  if (!bind_to_connect(i.fd.get(), i.local)) {
    return socket_trouble(i, "the address " + address_words(i.local) + " cannot be had", errno);
  }
  const int r = connect_patiently(i.fd.get(), to);
  if ((r != 0 && errno != EINPROGRESS) || !wait_for(i.fd.get(), POLLOUT, kConnectMs)) {
    return socket_trouble(i, "it cannot be connected to " + address_words(to), errno);
  }
  const int error = int_option(i.fd.get(), SOL_SOCKET, SO_ERROR);
  if (error != 0) {
    return socket_trouble(i, "it cannot be connected to " + address_words(to), error);
  }
  // From the first call's point of view it is still being connected. The second one would tell a
  // thread that is still in its call that it is connected already.
  if (!i.is_awaited) (void)connect(i.fd.get(), as_sockaddr(to), length(to));
  return {};
}

// Which end is to be accepted: that at whose port one listens or can listen. Where a connection
// was until just now (TIME_WAIT) one cannot, but connect.
bool SocketMaker::is_served(const Item& b, const Item& a) const {
  const auto serves = [this](const Item& i) {
    const auto at = std::ranges::find(listeners_, i.local, &Listener::address);
    if (at != listeners_.end() || is_free(i.local)) return true;
    clear_left_over(port_of(i.local));
    return is_free(i.local);
  };
  const bool b_free = serves(b), a_free = serves(a);
  if (b_free != a_free) return b_free;
  const uint16_t at_a = port_of(a.local), at_b = port_of(b.local);
  return listens_at(at_b) || (!listens_at(at_a) && at_b < at_a);
}

Trouble SocketMaker::make_tcp_pair(Item& a, Item& b) {
  const bool b_serves = is_served(b, a);
  Item &server = b_serves ? b : a, &client = b_serves ? a : b;
  int at = -1;
  Trouble bad = listen_for(server, &at);
  if (!bad.bad()) bad = create(client, &client.fd);
  if (!bad.bad()) bad = connect_from(client, client.remote);
  if (bad.bad()) return bad;
  while (!server.fd) {
    const bool any = wait_for(at, POLLIN, kConnectMs);
    os::Fd got(any ? accept4(at, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1);
    if (!got) return socket_trouble(server, "its connection cannot be made", errno);
    if (plain_address(peer_address(got.get())) == plain_address(client.local)) {
      server.fd = std::move(got);
    }
  }
  const std::string failed = set_options(server.fd.get(), server.options, OptionTime::kFirst);
  if (!failed.empty()) warn(server, "could not be set: " + failed);
  return {};
}

// A connection to ourselves, which end_other() ends as the one outside is told to have ended.
Trouble SocketMaker::make_reset(Item& i) {
  for (const bool mapped : {false, true}) {
    if (mapped && i.state.family != AF_INET6) break;
    const std::string any = loopback(i.state.family, mapped);
    const os::Fd l(socket(static_cast<int>(i.state.family), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!l || bind(l.get(), as_sockaddr(any), length(any)) != 0 || listen(l.get(), 1) != 0)
      continue;
    const std::string to = local_address(l.get());
    Trouble bad = create(i, &i.fd);
    if (bad.bad()) return bad;
    const int r = connect(i.fd.get(), as_sockaddr(to), length(to));
    if ((r != 0 && errno != EINPROGRESS) || !wait_for(l.get(), POLLIN, kConnectMs)) continue;
    i.other = os::Fd(accept4(l.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (i.other && !i.is(format::kSocketConnecting)) {
      (void)connect(i.fd.get(), as_sockaddr(to), length(to));
    }
    if (i.other) return {};
  }
  return socket_trouble(i, "what stands for a connection that was reset cannot be made", errno);
}

// What stood for a peer that is no socket of the session.
void SocketMaker::end_other(Item& i) {
  const linger at_once{1, 0};
  if (i.state.family == AF_UNIX) {
    const char byte = 0;
    const bool failed = (i.state.flags & format::kSocketPeerFailed) != 0;
    if (failed) (void)send(i.fd.get(), &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  } else {
    if ((i.state.shutdown & format::kSocketShutWrite) != 0) (void)shutdown(i.fd.get(), SHUT_WR);
    if ((i.state.flags & format::kSocketPeerEnded) == 0) {
      setsockopt(i.other.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    }
  }
  i.other.reset();
  if (!i.is_tcp()) return;
  wait_for(i.fd.get(), POLLRDHUP, kConnectMs);
  if ((i.state.flags & format::kSocketErrorSeen) != 0) {
    (void)int_option(i.fd.get(), SOL_SOCKET, SO_ERROR);
  }
}

}  // namespace cr::agent
