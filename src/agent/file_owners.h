// SPDX-License-Identifier: MIT
// file_owners.h - whom the kernel signals about a descriptor: F_SETOWN_EX, F_SETSIG, O_ASYNC.
// Invariant: signals that go to another process refuse the checkpoint, unless the descriptor itself
// is another's that the program was started with.
// Context: N (agent).
#pragma once

#include "agent/kinds.h"

namespace cr::agent {

// file: index of the record f that describes d.
Trouble describe_owner(const Program& program, const Descriptor& d, uint32_t file,
                       const format::FileRecord& f);

void set_owners(const format::ImageView& image, Recipe& recipe);

// For a restore: fd is to signal the group that this process and the restored one are in. Where
// that is outside of the restored one's process-id namespace, it cannot say so itself.
void signal_own_group(const format::ImageView& image, uint32_t file, int fd);

// A process that is about to begin anew: that its descriptors are closed shall not send it a
// signal, for which it has no handler then.
void silence_owners(pid_t pid, int pidfd);

// For restore() in place, before set_owners(). fd: a copy of the live descriptor of process pid.
enum class OwnerChange { kNone, kTakeAway, kImpossible };
OwnerChange compare_owner(const format::ImageView& image, uint32_t file, pid_t pid, int fd);

}  // namespace cr::agent
