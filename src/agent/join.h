// SPDX-License-Identifier: MIT
// join.h - gives a process of the session that has no control thread one: a fork child, or a
// program that was executed.
// Invariant: the process goes on as if nothing had happened, joined or not.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Process trees".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/world.h"
#include "os/fd.h"

namespace cr::agent {

// Where the library's entries lie, from its beginning; the same in all processes that map the file.
class LibraryPlace {
 public:
  // From a process that has attached.
  void learn(pid_t pid, const format::Hello& hello);
  bool known() const { return ino_ != 0 || hello_.join_entry != 0; }
  // In that process; false: it does not have the library, or has not initialised it yet.
  bool find(pid_t pid, format::Hello* ret) const;

 private:
  uint64_t dev_ = 0, ino_ = 0, base_ = 0;
  format::Hello hello_{};
};

// It has ended, or is about to: it has no memory any more.
bool is_ending(pid_t pid);

// A process that stands still in order to be joined.
struct Joining {
  os::Fd mem, pidfd;
  std::unique_ptr<World> world;
};
// Stops it, and has it make a control thread, which says Hello. transient: not now, but probably
// soon. unfinished: as World's.
Trouble join_process(pid_t pid, const LibraryPlace& place, const std::string& session_dir,
                     std::vector<pid_t>& unfinished, Joining* ret, bool* ret_transient);

}  // namespace cr::agent
