// SPDX-License-Identifier: MIT
// read_objects.h - the content of the memory and files that the stopped program shares.
// Invariant: every byte is read in the stop, for nobody counts who writes there; nothing of the
// program changes but that holes of memory without a descriptor may get pages of zeros.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Shared memory".
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "agent/describe_objects.h"
#include "agent/heap_ranges.h"

namespace cr::agent {

struct ObjectOwner {
  pid_t pid, tid;  // tid: a thread with the program's descriptors
  int pidfd;
  const std::vector<os::MapEntry>& maps;
  const MemoryReader& read;
};

// Takes whole pages that belong at `addr` (ObjectRecord.addr); rising from call to call. The data
// is gone when it returns.
using ObjectSink = std::function<Trouble(uint64_t addr, const uint8_t* data, uint64_t bytes)>;

// Fills in what the records lack, and gives their content to the sink; pages of zeros may be left
// out. model: with its segments and files.
Trouble read_objects(const ObjectOwner& owner, store::Model& model, const ObjectSink& sink);

}  // namespace cr::agent
