// SPDX-License-Identifier: MIT
// socket_options.h - the options of sockets: which are not as in a new one, and setting them.
// Invariant: reading changes nothing. Context: N (agent).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "os/fd.h"

namespace cr::agent {

struct SocketKey {
  int family, type, protocol;
  auto operator<=>(const SocketKey&) const = default;
};

struct OptionValue {
  int level, name;
  std::string value;
};

// What differs from a new socket of that kind. Returns why it cannot be saved, "" if it can.
// pid: of the program; multicast groups are listed in its network.
std::string read_options(int fd, const SocketKey& key, pid_t pid, std::vector<OptionValue>* ret);

// Some belong in front of bind(2), some would stand in the way of filling queues.
enum class OptionTime { kFirst, kLast };
// Returns those that could not be set, for a warning.
std::string set_options(int fd, const std::vector<OptionValue>& options, OptionTime when);

}  // namespace cr::agent
