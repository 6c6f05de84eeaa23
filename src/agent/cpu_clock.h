// SPDX-License-Identifier: MIT
// cpu_clock.h - "now" by the scheduler's clock of a processor, in which it says when a thread fell
// asleep. These clocks differ: time that was stolen or spent in interrupts is left out of each.
// Invariant: whoever asks waits for some milliseconds at most, however busy that processor is.
// Context: N (agent), one thread. Doc: docs/ARCHITECTURE.md, "System calls".
#pragma once

#include <stdint.h>

#include <string>

namespace cr::agent {

// When a thread last ran, by the clock of the processor on which that was, and how often it has
// gone to sleep. path: /proc/PID/task/TID/sched.
bool last_ran(const std::string& path, uint64_t* ret_ns, uint64_t* ret_switches);

// False: it cannot be known (a kernel that does not tell; a processor that is busy, and was never
// asked before). It may be later than the truth by what was stolen in the last 20 milliseconds; if
// the processor does not answer, since it did.
bool scheduler_now_ns(int cpu, uint64_t* ret);

}  // namespace cr::agent
