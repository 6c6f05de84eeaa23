// SPDX-License-Identifier: MIT
// cpus.h - which processors a thread may run on.
// Invariant: a thread keeps at least one.
// Context: N.
#pragma once

#include <sched.h>

#include <optional>

namespace cr::os {

// Takes `cpu` from those that the thread `tid` (0: the caller) may run on; if it runs there, it has
// moved when this returns. Returns those of before, to give back with sched_setaffinity(); nothing:
// there is no other one, or the kernel refused (no such thread, or more processors than a cpu_set_t
// has), and all is as it was.
inline std::optional<cpu_set_t> keep_off(pid_t tid, int cpu) {
  cpu_set_t all;
  if (cpu < 0 || sched_getaffinity(tid, sizeof(all), &all) != 0) return std::nullopt;
  cpu_set_t others = all;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(tid, sizeof(others), &others) != 0) {
    return std::nullopt;
  }
  return all;
}

}  // namespace cr::os
