// SPDX-License-Identifier: MIT
// rollback_files.h - restore() in place: what must be done to the descriptors of the running
// program so that they are again as the newest image has them.
// Invariant: finding out changes nothing; what cannot be put back for sure is refused.
// Context: N (agent), while the program is stopped. Doc: docs/ARCHITECTURE.md, "restore() in
// place".
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "agent/kind_pty.h"
#include "agent/recipe.h"
#include "format/image_reader.h"
#include "os/fd.h"

namespace cr::agent {

class SocketRefill;

// By a thread of the program, in this order: reopen, then unlock, place, close, set.
struct FileChange {
  struct Reopen {     // before anything else is changed
    Recipe recipe;    // one call
    int number = -1;  // in the program, when it was done
  };
  struct Place {  // make `fd` the same open file as `source`, or as the reopened one
    int fd, source;
    size_t reopen;  // if source is negative
    bool cloexec;
  };
  enum class What { kSize, kPosition, kFlags, kCloseOnExec, kNoOwner };
  struct Set {
    int fd;
    What what;
    uint64_t value;
  };
  // By the agent: the content of pipes and of files without a name.
  struct Content {
    os::Fd read_end, write_end;  // of a pipe
    os::Fd file;
    std::string bytes;
  };
  std::vector<Reopen> reopen;
  std::vector<int> unlock, close;
  std::vector<Place> place;
  std::vector<Set> set;
  std::vector<Content> contents;
  std::shared_ptr<SocketRefill> sockets;  // what has come and gone in them since
  std::vector<PtyChange> ptys;
  int free_number = 0;  // no descriptor has it or a higher one, neither then nor now
};

// Fills *ret. Returns why this cannot be done in place; "" if it can.
std::string find_file_change(const format::ImageView& image, pid_t pid, pid_t tid, int pidfd,
                             FileChange* ret);

// "" or what went wrong.
std::string put_contents_back(FileChange& change);

}  // namespace cr::agent
