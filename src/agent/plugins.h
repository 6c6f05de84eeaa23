// SPDX-License-Identifier: MIT
// plugins.h - what the program's plug-ins claim, and the calls of their callbacks.
// Invariant: as include/checkpoint_restore_plugin.h promises them.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Plug-ins".
#pragma once

#include <string>
#include <vector>

#include "agent/recipe.h"
#include "agent/world.h"
#include "format/image_reader.h"
#include "format/plugins.h"
#include "store/model.h"

namespace cr::agent {

// table: its address in the program.
void read_claims(const MemoryReader& read, uint64_t table, store::Model& model);

bool claims_descriptor(const store::Model& model, const std::string& link);
bool claims_mapping(const store::Model& model, const std::string& name);

// In the stop, when the threads have been described: has the plug-ins save what they claim.
Trouble save_by_plugins(World& world, uint64_t table, store::Model& model);

// First of all that a restored process does to itself.
void restore_by_plugins(const format::ImageView& image, Recipe& recipe);

}  // namespace cr::agent
