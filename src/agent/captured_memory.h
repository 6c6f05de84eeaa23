// SPDX-License-Identifier: MIT
// captured_memory.h - the memory of a checkpoint that was captured, readable by address.
// Invariant: reads what the program had in the stop; what was not captured cannot be read.
// Context: N (agent).
#pragma once

#include <cstdint>
#include <vector>

#include "agent/page_tracker.h"
#include "format/channel.h"
#include "store/buffer.h"

namespace cr::agent {

class CapturedMemory {
 public:
  // runs: ascending, as PageTracker::resolve() gave them. All are used as long as this lives.
  CapturedMemory(const std::vector<format::Run>& runs, const uint8_t* staging,
                 const store::BufferWriter& writer)
      : runs_(runs), staging_(staging), writer_(writer) {}

  bool read(uint64_t addr, void* to, size_t bytes) const;

 private:
  const std::vector<format::Run>& runs_;
  const uint8_t* staging_;
  const store::BufferWriter& writer_;
};

// What of the runs does not lie in the set.
std::vector<format::Run> without(const std::vector<format::Run>& runs, const AddressSet& set);

}  // namespace cr::agent
