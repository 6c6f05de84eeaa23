// SPDX-License-Identifier: MIT
// address.cc - see address.h. Invariant: as there. Context: N.
#include "node/address.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

#include <algorithm>

namespace cr::node {
namespace {

// A sockaddr has its port at the same place in both families.
static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));

}  // namespace

uint16_t Address::port() const {
  return ntohs(reinterpret_cast<const sockaddr_in&>(storage).sin_port);
}

void Address::set_port(uint16_t port) {
  reinterpret_cast<sockaddr_in&>(storage).sin_port = htons(port);
}

std::string Address::text() const {
  char host[64] = "", port[16] = "";
  if (getnameinfo(get(), bytes, host, sizeof(host), port, sizeof(port),
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "an unknown address";
  }
  const bool v6 = storage.ss_family == AF_INET6;
  return (v6 ? "[" : "") + std::string(host) + (v6 ? "]:" : ":") + port;
}

namespace {

int get_address(const std::string& host, uint16_t port, int flags, Address* ret) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags;
  const int e = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (e != 0) return e;
  ret->bytes = std::min<socklen_t>(found->ai_addrlen, sizeof(ret->storage));
  memcpy(&ret->storage, found->ai_addr, ret->bytes);
  freeaddrinfo(found);
  return 0;
}

}  // namespace

std::optional<Address> address_of_digits(const std::string& host, uint16_t port) {
  Address a;
  if (get_address(host, port, AI_NUMERICHOST, &a) != 0) return std::nullopt;
  return a;
}

Result<Address> look_up(const std::string& host, uint16_t port, std::string* ret_why) {
  Address a;
  const int e = get_address(host, port, 0, &a);
  if (e == 0) return a;
  if (ret_why != nullptr) *ret_why = e == EAI_SYSTEM ? strerror(errno) : gai_strerror(e);
  return Error{Errc::kInvalid, 0, "the host's name or address cannot be resolved"};
}

Result<Address> address_of_socket(int fd) {
  Address a;
  a.bytes = sizeof(a.storage);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&a.storage), &a.bytes) != 0) {
    return Error{Errc::kSystem, errno, "getsockname"};
  }
  return a;
}

Address address_of(const sockaddr_storage& storage) {
  Address a;
  a.storage = storage;
  a.bytes = storage.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  return a;
}

std::string interface_that_is_down(const Address& address) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  std::string down;
  for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != address.storage.ss_family) continue;
    const bool same =
        address.storage.ss_family == AF_INET6
            ? memcmp(&reinterpret_cast<const sockaddr_in6*>(i->ifa_addr)->sin6_addr,
                     &reinterpret_cast<const sockaddr_in6*>(address.get())->sin6_addr,
                     sizeof(in6_addr)) == 0
            : reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr.s_addr ==
                  reinterpret_cast<const sockaddr_in*>(address.get())->sin_addr.s_addr;
    constexpr unsigned kWorks = IFF_UP | IFF_RUNNING;
    if (same && (i->ifa_flags & kWorks) != kWorks) down = i->ifa_name;
  }
  freeifaddrs(all);
  return down;
}

}  // namespace cr::node
