// SPDX-License-Identifier: MIT
// slice.cc - see slice.h. Invariant: as there. Context: N.
#include "os/slice.h"

#include <sched.h>
#include <stdint.h>
#include <unistd.h>

#include <optional>

#include "rawsys/rawsys.h"

namespace cr::os {

namespace {
struct Attributes {  // struct sched_attr, whose header does not go with libc's
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t least_utilization, most_utilization;
};
// The shortest that there is; and more than the usual one, which is at most 2.8 ms.
constexpr uint64_t kShortNs = 100'000, kLongNs = 6'000'000;
}  // namespace

void set_slice(pid_t tid, Slice slice) {
  static thread_local std::optional<uint64_t> own_usual_ns;
  Attributes a{};
  if (rawsys::sys(__NR_sched_getattr, tid, &a, sizeof(a), 0) != 0 ||
      (a.policy != SCHED_OTHER && a.policy != SCHED_BATCH)) {
    return;
  }
  if (tid == 0 && !own_usual_ns) {
    if (slice == Slice::kUsual) return;
    own_usual_ns = a.runtime;
  }
  const uint64_t usual_ns = tid == 0 ? *own_usual_ns : 0;
  constexpr uint64_t kResetOnFork = 1;
  a.size = sizeof(a);
  a.flags &= kResetOnFork;
  a.runtime = slice == Slice::kShort ? kShortNs : slice == Slice::kLong ? kLongNs : usual_ns;
  a.deadline = a.period = 0;
  (void)rawsys::sys(__NR_sched_setattr, tid, &a, 0);
}

}  // namespace cr::os
