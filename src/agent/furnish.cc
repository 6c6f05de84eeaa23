// SPDX-License-Identifier: MIT
// furnish.cc - see furnish.h. Invariant: as there. Context: N (agent).
#include "agent/furnish.h"

#include "agent/file_locks.h"
#include "agent/file_owners.h"
#include "agent/kinds.h"
#include "agent/posix_timers.h"

namespace cr::agent {

void furnish_process(const format::ImageView& image, bool make, Recipes& recipes) {
  furnish_files(image, make, recipes);
  take_locks(image, recipes.early);
  set_owners(image, recipes.early);
  make_posix_timers(image, recipes.late);
}

}  // namespace cr::agent
