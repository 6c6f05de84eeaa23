// SPDX-License-Identifier: MIT
// compare_sockets.h - for restore() of a running process: which of its sockets are as the image has
// them.
// Invariant: one that is named here has the same peer, address and options.
// Context: N (agent).
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <map>

#include "format/image_reader.h"
#include "os/fd.h"

namespace cr::agent {

enum class SocketChange {
  kNone,
  kQueue,  // it holds something else
};

// By inode number; those that differ otherwise are left out. tid: a living thread of the program,
// 0: the main one if it lives.
std::map<uint64_t, SocketChange> compare_sockets(const format::ImageView& image, int pidfd,
                                                 pid_t tid);

// The process's descriptor of that socket of the image, none if its numbers lead elsewhere.
os::Fd live_socket(const format::ImageView& image, uint64_t ino, int pidfd);

}  // namespace cr::agent
