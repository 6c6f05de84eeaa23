// SPDX-License-Identifier: MIT
// overhead.h - what checkpoints cost the program, measured.
// Invariant: pure arithmetic; nothing here reads a clock.
// Context: N. Doc: docs/ARCHITECTURE.md, "What a checkpoint costs".
#pragma once

#include <stdint.h>

namespace cr::agent {

// Of one attempt.
struct Effort {
  uint64_t pause_ns = 0;    // the program stood still
  uint64_t precopy_ns = 0;  // the control thread copied beside it: one processor's time
  uint64_t agent_ns = 0;    // processor time of the agent outside the pause
  unsigned processors = 1;  // that the program may run on
};

// The pause, and the processor time spent beside the running program as far as it could have used
// it: a program that keeps all its processors busy loses that time on one of them.
uint64_t cost_of(const Effort& effort);

// The share of its time that the program lost, over the last dozen or so of checkpoints.
class OverheadMeter {
 public:
  // elapsed_ns: since the end of the checkpoint before, or since the program runs.
  void add(uint64_t cost_ns, uint64_t elapsed_ns);
  void reset() { cost_ = elapsed_ = 0; }
  // 0 before the first.
  double share() const { return elapsed_ > 0 ? cost_ / elapsed_ : 0; }
  uint32_t ppm() const;

 private:
  double cost_ = 0, elapsed_ = 0;
};

}  // namespace cr::agent
