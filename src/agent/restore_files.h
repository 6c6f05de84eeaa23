// SPDX-License-Identifier: MIT
// restore_files.h - opens again what the saved process had open.
// Invariant: no file is changed here; changes are listed as pending. Context: N (agent).
#pragma once

#include "agent/restore_plan.h"

namespace cr::agent {

// Fills plan.fds from index plan.fds.size() on, plan.pending, and ret_fds.
Trouble open_files(const format::ImageView& image, const std::string& image_dir, RestorePlan& plan,
                   std::vector<format::PlanFd>* ret_fds);

}  // namespace cr::agent
