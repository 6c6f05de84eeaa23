// SPDX-License-Identifier: MIT
// describe_files.h - the descriptors of the stopped program.
// Invariant: a descriptor is described so that it can be made again, or the checkpoint is refused
// with its number and kind.
// Context: N (agent).
#pragma once

#include "agent/world.h"
#include "store/model.h"

namespace cr::agent {

// Unnamed files (deleted, O_TMPFILE) up to this size are kept in the image.
inline constexpr uint64_t kDeletedFileBytes = 256ull << 20;

// tid: a living thread. pidfd: of the process.
Trouble describe_files(pid_t pid, pid_t tid, int pidfd, store::Model& model);

}  // namespace cr::agent
