// SPDX-License-Identifier: MIT
// file_locks.h - locks on files: flock(2), record locks of the process and of an open file, leases.
// Invariant: they are taken again before any file is changed; a lock that another process holds by
// then ends the restore with its name.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One restore".
#pragma once

#include <string>
#include <vector>

#include "agent/kinds.h"

namespace cr::agent {

// By the lines "lock:" of fdinfo. file: index of the record that describes d.
Trouble describe_locks(const Descriptor& d, uint32_t file, bool only_of_process,
                       store::Model& model);

// Of the planner, which changes nothing: who else holds one now, "" if nobody is known to. self: a
// process that gives up its own, 0 none.
std::string why_not_locked(const format::ImageView& image, pid_t self);

void take_locks(const format::ImageView& image, Recipe& recipe);

// A descriptor has these locks now, and no others.
bool has_locks(const std::string& fdinfo, const format::ImageView& image, uint32_t file);
bool any_lock(const format::ImageView& image, uint32_t file);

}  // namespace cr::agent
