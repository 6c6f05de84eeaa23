// SPDX-License-Identifier: MIT
// describe_files.h - the descriptors of the stopped program.
// Invariant: a descriptor is described so that it can be made again, or the checkpoint is refused
// with its number and kind.
// Context: N (agent).
#pragma once

#include "agent/tree_files.h"
#include "agent/world.h"
#include "store/model.h"

namespace cr::agent {

// Unnamed files (deleted, O_TMPFILE) up to this size are kept in the image.
inline constexpr uint64_t kDeletedFileBytes = 256ull << 20;

// tid: a living thread. pidfd: of the process.
// Of one process of a tree: its number, and what the others have open.
struct AmongOthers {
  TreeFiles* files = nullptr;  // nullptr: there are none
  uint32_t member = 0;
};
Trouble describe_files(pid_t pid, pid_t tid, int pidfd, const AmongOthers& others,
                       store::Model& model);

}  // namespace cr::agent
