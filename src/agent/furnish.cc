// SPDX-License-Identifier: MIT
// furnish.cc - see furnish.h. Invariant: as there. Context: N (agent).
#include "agent/furnish.h"

#include "agent/kinds.h"
#include "agent/posix_timers.h"

namespace cr::agent {

void furnish_process(const format::ImageView& image, bool make, Recipes& recipes) {
  furnish_files(image, make, recipes);
  make_posix_timers(image, recipes.late);
}

}  // namespace cr::agent
