// SPDX-License-Identifier: MIT
// left_over.cc - see left_over.h. Invariant: as there. Context: N (agent).
#include "agent/left_over.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/socket_diag.h"

namespace cr::agent {
namespace {

constexpr uint32_t kTimeWait = 6;

uint16_t port_at(const std::string& plain) {
  uint16_t port;
  memcpy(&port, plain.data() + 16, sizeof(port));
  return ntohs(port);
}

std::string as_sockaddr(const std::string& plain) {
  sockaddr_in6 a{};
  a.sin6_family = AF_INET6;
  memcpy(&a.sin6_addr, plain.data(), sizeof(a.sin6_addr));
  const std::string six(reinterpret_cast<const char*>(&a), sizeof(a));
  return make_address(IN6_IS_ADDR_V4MAPPED(&a.sin6_addr) ? AF_INET : AF_INET6, six, port_at(plain));
}

bool bind_at(int fd, const std::string& address) {
  return bind(fd, reinterpret_cast<const sockaddr*>(address.data()),
              static_cast<socklen_t>(address.size())) == 0;
}

// Its address, and the kernel chooses the only port that it may when it connects: it looks at the
// connection then, not at the port.
bool bind_late(int fd, const std::string& local) {
  constexpr int kLocalPortRange = 51;  // IP_LOCAL_PORT_RANGE, Linux 6.3
  const uint32_t port = port_of(local), range = port << 16 | port;
  const int on = 1;
  sa_family_t family;
  memcpy(&family, local.data(), sizeof(family));
  return setsockopt(fd, IPPROTO_IP, kLocalPortRange, &range, sizeof(range)) == 0 &&
         setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on)) == 0 &&
         bind_at(fd, make_address(family, local, 0));
}

void reset_from(const std::string& from, const std::string& to) {
  sa_family_t family;
  memcpy(&family, from.data(), sizeof(family));
  const os::Fd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind_at(fd.get(), from) || bind_late(fd.get(), from)) {
    (void)connect(fd.get(), reinterpret_cast<const sockaddr*>(to.data()),
                  static_cast<socklen_t>(to.size()));
  }
}

}  // namespace

bool is_left_over(uint16_t port) {
  bool any = false;
  for (const TcpEntry& e : list_tcp(getpid())) {
    if (port_at(e.local) != port) continue;
    if (e.ino != 0) return false;
    any = any || e.state == kTimeWait;
  }
  return any;
}

void clear_left_over(uint16_t port) {
  for (const TcpEntry& e : list_tcp(getpid())) {
    if (port_at(e.local) != port || e.state != kTimeWait) continue;
    reset_from(as_sockaddr(e.remote), as_sockaddr(e.local));
  }
}

bool bind_to_connect(int fd, const std::string& local) {
  for (const bool again : {false, true}) {
    if (bind_at(fd, local)) return true;
    if (errno != EADDRINUSE) return false;
    if (!again && is_left_over(port_of(local))) clear_left_over(port_of(local));
  }
  if (bind_late(fd, local)) return true;
  errno = EADDRINUSE;
  return false;
}

}  // namespace cr::agent
