// SPDX-License-Identifier: MIT
// restore_files.h - opens again what the saved process had open.
// Invariant: no file is changed here; changes are listed as pending. Context: N (agent).
#pragma once

#include "agent/restore_objects.h"
#include "agent/restore_plan.h"

namespace cr::agent {

// Fills plan.fds from index plan.fds.size() on, plan.pending, and ret_fds.
// options.live_pidfd: for restore() in place, the process that is rolled back; what it still has
// open is taken from it, so that descriptions shared with other processes stay shared. -1: none.
Trouble open_files(const format::ImageView& image, const std::string& image_dir,
                   const PlanOptions& options, ObjectMaker& objects, RestorePlan& plan,
                   std::vector<format::PlanFd>* ret_fds);

// A file that was renamed after the checkpoint, at checkpoint_ns: it is found by its inode in the
// same directory, and has its name again. false: there is none. One that was made since has only
// inherited the number.
bool rename_back(uint64_t ino, uint64_t checkpoint_ns, const std::string& path,
                 std::vector<std::string>& warnings);

}  // namespace cr::agent
