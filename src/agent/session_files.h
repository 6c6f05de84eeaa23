// SPDX-License-Identifier: MIT
// session_files.h - what a restore does with the files that the session has changed: puts them
// back, leaves them, or refuses.
// Invariant: no file is changed before the image is known to be good.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Files that the session writes".
#pragma once

#include <string>

#include "agent/file_keeper.h"
#include "agent/file_put_back.h"
#include "agent/restore_plan.h"

namespace cr::agent {

// A step of planning.
Trouble put_session_files_back(const store::LoadedImage& image, const std::string& image_dir,
                               const PlanOptions& options, RestorePlan& plan);

// restore() in place: what is to be put back. Returns why that cannot be done in place, or "".
std::string find_changed_files(const format::ImageView& image, const std::string& image_dir,
                               const FileKeeper& keeper, JournalState* ret);

}  // namespace cr::agent
