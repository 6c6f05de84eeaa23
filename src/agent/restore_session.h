// SPDX-License-Identifier: MIT
// restore_session.h - the plans of all processes of a checkpoint, with what they share.
// Invariant: as restore_plan.h, for all of them; the first process's plan comes first, the others'
// in the order of the tree, and what several have is made with the first of them.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Process trees".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/restore_plan.h"
#include "agent/session.h"

namespace cr::agent {

// A process that is being restored.
struct Returning {
  format::TreeRecord record{};
  std::unique_ptr<store::LoadedImage> image;
  std::unique_ptr<RestorePlan> plan;  // nullptr: the first process, if it has ended
  Session* session = nullptr;
  pid_t pid = 0;
  os::Fd connection;  // of its control thread, which waits
  format::Hello hello{};
};

struct ReturningSession {
  std::vector<std::unique_ptr<Returning>> all;
  SharedMakings shared;  // until the first process has been given its plan
  Undo undo;             // of that
  bool is_tree() const { return !all.empty() && !all[0]->image->view.tree.empty(); }
  void keep();  // it was restored
  void clear();
};

// sequence 0: the newest whole checkpoint. on_verify: of the first process.
// files: says what is done with files that have changed. paths: where files lie now; must live as
// long as the plans.
Trouble plan_session(const std::string& dir, uint64_t sequence, PlanOptions how,
                     const FileKeeper& files, PathMapper* paths,
                     const store::VerifyProgress& on_verify, ReturningSession* ret);

}  // namespace cr::agent
