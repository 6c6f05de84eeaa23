// SPDX-License-Identifier: MIT
// tree_files.h - the descriptors of all processes of a tree, while they are stopped: which open
// files they share, and which pipes stay among them.
// Invariant: an open file is described with the first process that has it, and only there.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Process trees".
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <vector>

#include "agent/describe_sockets.h"

namespace cr::agent {

class TreeFiles {
 public:
  struct Place {  // of an open file in the images
    uint32_t member;
    uint32_t file;
  };
  // tid: a living thread. False: they cannot be listed.
  bool add_process(pid_t pid, pid_t tid);
  // The described open file that descriptor `fd` of that thread's process leads to as well.
  bool find(pid_t tid, int fd, uint64_t dev, uint64_t ino, Place* ret) const;
  void note(uint32_t member, pid_t tid, int fd, uint64_t dev, uint64_t ino, uint32_t file);
  // Has any of the processes the other end of this pipe? accmode: of the end at hand.
  bool has_other_end(uint64_t dev, uint64_t ino, uint64_t accmode) const;
  bool has(uint64_t dev, uint64_t ino) const;
  bool has_process(pid_t pid) const;
  // An end of pseudoterminal /dev/pts/N.
  bool has_pty_master(uint32_t number) const;
  bool has_pty_slave(uint32_t number) const;
  // Of all of them; described when the last process was looked at.
  SocketDescriber& sockets() { return sockets_; }

 private:
  struct Open {
    pid_t pid;
    uint64_t dev, ino;
    uint64_t accmode;
    uint64_t rdev;
  };
  struct Described {
    Place place;
    pid_t tid;
    int fd;
    uint64_t dev, ino;
  };
  std::vector<Open> open_;  // what is no regular file
  std::vector<Described> described_;
  std::vector<pid_t> pids_;
  std::vector<uint32_t> pty_masters_;
  SocketDescriber sockets_;
};

}  // namespace cr::agent
