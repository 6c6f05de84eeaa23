// SPDX-License-Identifier: MIT
// agent_messages.h - what the agent says on its socket.
// Invariant: a message is sent whole or not at all. Context: N (agent).
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "agent/world.h"
#include "format/channel.h"

namespace cr::agent {

bool send_with_fds(int sock, const format::Report& r, const int* fds, size_t n);
format::Report refusal(const Trouble& t);
// Who made the connection, in this process's pid namespace; 0: not known.
pid_t peer_of(int sock);

}  // namespace cr::agent
