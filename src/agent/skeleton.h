// SPDX-License-Identifier: MIT
// skeleton.h - in which order a tree of processes is made so that each has its parent, session and
// process group again.
// Invariant: the plan is a function of the records alone; a tree that cannot be made so is refused
// before anything is started.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Process trees".
#pragma once

#include <sys/types.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "agent/world.h"
#include "format/image.h"

namespace cr::agent {

inline constexpr int kTop = -1;  // the process that makes the tree, and is not part of it

// A process to be made. Ghosts stand in for processes that have ended, and end too before anything
// runs: leaders of a session or a group that lives on, parents of orphans.
struct Bone {
  pid_t pid = 0;  // 0: any that nobody needs
  int parent = kTop;
  pid_t parent_pid = 0;        // as it sees it, once all is in place; 0: outside
  int row = -1;                // of the records; -1: a ghost
  bool before_setsid = false;  // made before its parent begins a session
  bool new_session = false, new_group = false;
  pid_t group = 0;           // to be joined; 0: as it was born, or its own
  bool makes_group = false;  // its leader is gone: a ghost of its own makes it
  bool zombie = false, subreaper = false;
  int status = 0;  // of a zombie
  std::string name;
  int terminal_fd = -1;  // of a new session: becomes its controlling terminal
  pid_t foreground = 0;  // the group in the foreground of that
};

// Parents come before their children.
Trouble plan_skeleton(std::span<const format::TreeRecord> rows, std::vector<Bone>* ret);

// Makes all of them; `become` is called in each that shall live, with its row, when all are in
// their places, and does not return. To be called by the process that is kTop.
// The ids are those of this process's namespace. An errno in the Trouble of EPERM or EEXIST: an id
// cannot be had.
Trouble make_skeleton(const std::vector<Bone>& bones, const std::function<void(int row)>& become);

}  // namespace cr::agent
