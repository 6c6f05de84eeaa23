// SPDX-License-Identifier: MIT
// describe_memory.h - the memory map of the stopped program as segments and as work for the
// control thread.
// Invariant: every mapping becomes a segment, is one of our own, or the checkpoint is refused with
// the mapping named.
// Context: N (agent).
#pragma once

#include <string>
#include <vector>

#include "agent/describe_objects.h"
#include "agent/heap_ranges.h"
#include "agent/world.h"
#include "format/channel.h"
#include "os/proc.h"
#include "store/model.h"

namespace cr::agent {

// Clean pages of mapped files up to this size are kept in the image; of larger ones that are no
// program text only the name, size and time of last change.
inline constexpr uint64_t kEmbedFileBytes = 16ull << 20;
using format::kChannelMemfdName;

struct MemoryPlan {
  std::vector<format::Range> ranges;
  AddressSet without;  // what was left out of them
  uint64_t vdso_start = 0, vdso_bytes = 0, vvar_start = 0, vvar_bytes = 0;
  // Also by what the program has open: not to be used again because the map is the same.
  bool by_descriptors = false;
};

struct Leftover {  // of a restore: the restorer's own region
  uint64_t start = 0, bytes = 0;
};

// without: what need not be saved. Of a running program the result may be out of date.
Trouble describe_memory(const MemoryReader& read, const std::vector<os::MapEntry>& maps,
                        const AddressSet& without, const Leftover& leftover, OpenFiles open,
                        store::Model& model, MemoryPlan* ret_plan);
// Are the mapped files what they were when they were described?
bool files_are_as_described(const store::Model& model);

// Adds what only smaps tells (madvise state); may run after the program went on.
void add_vm_flags(const std::vector<os::MapEntry>& smaps, store::Model& model);

}  // namespace cr::agent
