// SPDX-License-Identifier: MIT
// left_over.h - what a TCP connection leaves behind where it was closed first (TIME_WAIT): for a
// minute nobody can listen there, unless both had asked for it (SO_REUSEADDR).
// Invariant: connections that live are left alone. Context: N (agent).
#pragma once

#include <stdint.h>

#include <string>

namespace cr::agent {

// Nothing else is at that port.
bool is_left_over(uint16_t port);
// Ends what is left of connections within this machine: its other end's address is asked to connect
// once more, and, answered as if it were still the old connection, resets it. Unprivileged.
void clear_left_over(uint16_t port);

// For one that is to connect, not to listen: where something is left over, too.
bool bind_to_connect(int fd, const std::string& local);

}  // namespace cr::agent
