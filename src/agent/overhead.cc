// SPDX-License-Identifier: MIT
// overhead.cc - see overhead.h. Invariant: as there. Context: N.
#include "agent/overhead.h"

#include <algorithm>

namespace cr::agent {
namespace {
constexpr double kKeep = 0.9;  // of the earlier checkpoints' weight, at each new one
}

uint64_t cost_of(const Effort& e) {
  return e.pause_ns + (e.precopy_ns + e.agent_ns) / std::max(1u, e.processors);
}

void OverheadMeter::add(uint64_t cost_ns, uint64_t elapsed_ns) {
  cost_ = kKeep * cost_ + static_cast<double>(cost_ns);
  elapsed_ = kKeep * elapsed_ + static_cast<double>(std::max(elapsed_ns, cost_ns));
}

uint32_t OverheadMeter::ppm() const {
  return static_cast<uint32_t>(std::min(1e6, share() * 1e6 + 0.5));
}

}  // namespace cr::agent
