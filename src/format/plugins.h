// SPDX-License-Identifier: MIT
// plugins.h - what a program's plug-ins (include/checkpoint_restore_plugin.h) have registered, as
// the agent reads it from the program's memory.
// Invariant: entries are only added; count is raised when one is complete. Same machine, same
// build: not durable.
// Context: N, S, R.
#pragma once

#include <stdint.h>

#include "format/image.h"

namespace cr::format {

inline constexpr uint32_t kMostPlugins = 8;

struct PluginEntry {
  char name[32];
  char descriptors[64], mappings[64];  // what their names begin with; "": none
  uint64_t save, restore, context;     // addresses
};
CR_ON_DISK(PluginEntry, 184);

struct PluginTable {
  uint32_t count;
  // Of the newest call of the save callbacks: 0, or 1 + number of the one that failed.
  uint32_t failed;
  int32_t error;  // its errno
  uint32_t reserved;
  uint64_t save_all, restore_one;  // functions of the library: void(), long(number)
  PluginEntry entries[kMostPlugins];
  char why[256];
};
CR_ON_DISK(PluginTable, 32 + 8 * 184 + 256);

}  // namespace cr::format
