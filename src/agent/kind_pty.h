// SPDX-License-Identifier: MIT
// kind_pty.h - pseudoterminals of the program's own: it has the master, and perhaps the slave.
// Invariant: described, one is as it was; in the image it is known by its number N of /dev/pts/N,
// so that its two ends may be descriptors of several processes, each with an image.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Terminals".
#pragma once

#include <map>
#include <string>
#include <vector>

#include "agent/kinds.h"
#include "agent/pty_content.h"

namespace cr::agent {

// Before any is described: nobody else may use them meanwhile. One look at all processes.
Trouble refuse_shared_ptys(const Program& program);
Trouble describe_pty_master(const Program& program, const Descriptor& d, format::FileRecord& f);
// Is it the slave of a master that the program has, or had? Then it is described.
bool describe_pty_slave(const Program& program, const Descriptor& d, format::FileRecord& f);

// Makes the pseudoterminals of one or more images.
class PtyMaker {
 public:
  // live_pidfd: a process that still has them open, and gives them up; -1: none.
  explicit PtyMaker(int live_pidfd) : live_pidfd_(live_pidfd) {}
  Trouble open_master(const SavedFile& f, os::Fd* ret);
  Trouble open_slave(const SavedFile& f, os::Fd* ret);
  // When every descriptor of every image is open: modes, window, content. No end that was to be
  // closed is open afterwards.
  Trouble finish(std::vector<std::string>& warnings);

 private:
  struct Pty {
    os::Fd master;
    os::Fd slave;         // if it is still there
    uint32_t number = 0;  // that it has now
    bool fresh = false;
    const format::PtyState* state = nullptr;
    PtyContent content;
    std::string name;
  };
  Trouble make(uint32_t number, const std::string& name, Pty& p);
  void lock_numbers();
  os::Fd open_numbered(uint32_t number, uint32_t* ret_number);
  os::Fd take_live(const SavedFile& f) const;

  int live_pidfd_;
  std::map<uint32_t, Pty> all_;       // by their numbers then
  std::map<uint32_t, os::Fd> spare_;  // masters that came up before the right ones
  os::Fd lock_;
};

PtyContent content_of_pty(const format::ImageView& image, const format::PtyState& s);

// restore() in place, for a master that is the same one.
struct PtyChange {
  os::Fd master, slave;
  const format::PtyState* state;
  PtyContent content;
};
// slave: a descriptor of it that the program has, if it has one for reading and writing. "" or why
// it cannot be put back in place.
std::string plan_pty_change(const SavedFile& f, os::Fd master, os::Fd slave, PtyChange* ret);
bool put_pty_back(PtyChange& change);

// The process takes its controlling terminal.
void take_controlling_terminal(const format::ImageView& image, Recipe& recipe);
bool controls_own_terminal(const format::ImageView& image);

}  // namespace cr::agent
