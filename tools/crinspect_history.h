// SPDX-License-Identifier: MIT
// crinspect_history.h - what the table and the picture of the history share.
// Invariant: as crinspect_commands.h. Context: N.
#pragma once

#include <vector>

#include "format/history.h"
#include "tools/crinspect_commands.h"

namespace cr::tools {

// The attempts that the settings ask for, oldest first. Without any: what to print instead.
Output read_history(const Settings& settings, std::vector<format::HistoryRecord>* ret);

}  // namespace cr::tools
