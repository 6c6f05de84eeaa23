// SPDX-License-Identifier: MIT
// socket_queue.h - what waits in a socket to be read.
// Invariant: it stays there, as it is, in its order. Context: N (agent), while the program is
// stopped.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "os/fd.h"

namespace cr::agent {

struct QueuedMessage {
  std::string bytes;
  std::string from;         // struct sockaddr
  std::vector<os::Fd> fds;  // SCM_RIGHTS
  bool has_credentials = false;
  ucred credentials{};
};

// Of a stream one message reaches as far as nothing else came along with its bytes. ino: of the
// socket, to know it again. Returns why it cannot be read, "" if it was.
std::string peek_queue(int fd, int type, uint64_t ino, std::vector<QueuedMessage>* ret);

}  // namespace cr::agent
