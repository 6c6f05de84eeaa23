// SPDX-License-Identifier: MIT
// posix_timers.h - timers of timer_create(2).
// Invariant: each comes back with its id, and goes on with the time that was left; an expiration is
// pending or still to come, never both and never neither.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One restore".
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "agent/recipe.h"
#include "agent/world.h"
#include "format/image_reader.h"
#include "store/model.h"

namespace cr::agent {

// What /proc tells of the timers of a process, ids as the program sees them. threads: how many it
// has.
Trouble list_posix_timers(pid_t pid, size_t threads,
                          std::vector<format::PosixTimerRecord>* ret_timers);

// elapsed_ns: since their time was read. Those that have expired in it have their signal in the
// model by now.
void settle_posix_timers(uint64_t elapsed_ns, store::Model& model);

void make_posix_timers(const format::ImageView& image, Recipe& recipe);

// The kernel lets a process choose the ids of its timers (Linux 6.15).
bool timer_ids_can_be_chosen();

}  // namespace cr::agent
