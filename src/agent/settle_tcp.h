// SPDX-License-Identifier: MIT
// settle_tcp.h - bytes of a TCP connection inside the program that are on their way.
// Invariant: none is lost or doubled; what the program can see of its sockets' options stays.
// Context: N (agent), while the program is stopped.
#pragma once

#include <stddef.h>

namespace cr::agent {

// Sees to it that all that was sent is in the queue of the other end. Returns how many bytes are
// not.
size_t settle_tcp(int from, int to);

}  // namespace cr::agent
