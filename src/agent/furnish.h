// SPDX-License-Identifier: MIT
// furnish.h - all that a process does to itself to have its descriptors' and timers' state back.
// Invariant: as recipe.h. Context: N (agent).
#pragma once

#include "agent/recipe.h"
#include "format/image_reader.h"

namespace cr::agent {

// make: descriptors too that only the process itself can make.
void furnish_process(const format::ImageView& image, bool make, Recipes& recipes);

}  // namespace cr::agent
