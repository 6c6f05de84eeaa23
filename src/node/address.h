// SPDX-License-Identifier: MIT
// address.h - addresses of the internet protocols, as sockets want them and as people read them.
// Invariant: what look_up() gives out is a whole sockaddr of its family.
// Context: N; look_up() may block, for looking up a host's name.
#pragma once

#include <stdint.h>
#include <sys/socket.h>

#include <optional>
#include <string>

#include "base/base.h"

namespace cr::node {

struct Address {
  sockaddr_storage storage{};
  socklen_t bytes = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  uint16_t port() const;
  void set_port(uint16_t port);
  // "10.0.0.1:7117", "[fe80::1]:7117"
  std::string text() const;
};

// nullopt: the host is a name. Never blocks.
std::optional<Address> address_of_digits(const std::string& host, uint16_t port);
// *ret_why, if not nullptr: the name service's words. Errors: kInvalid (no such host).
Result<Address> look_up(const std::string& host, uint16_t port, std::string* ret_why = nullptr);
// Where a socket is bound to. Errors: kSystem.
Result<Address> address_of_socket(int fd);
Address address_of(const sockaddr_storage& storage);
// The interface that has this address, if it is not up and running (no cable, say); else "".
std::string interface_that_is_down(const Address& address);

}  // namespace cr::node
