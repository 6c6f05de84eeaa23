// SPDX-License-Identifier: MIT
// slice_test.cc - slices of the fair scheduler, as the kernel tells them.
#include "os/slice.h"

#include <asm/unistd.h>
#include <criterion/criterion.h>
#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>

#include "rawsys/rawsys.h"

using cr::os::set_slice;
using cr::os::Slice;

namespace {

struct Attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t least_utilization, most_utilization;
};

Attributes own() {
  Attributes a{};
  cr_assert(cr::rawsys::sys(__NR_sched_getattr, 0, &a, sizeof(a), 0) == 0);
  return a;
}

}  // namespace

// Before Linux 6.12 there are none, and 0 is told.
Test(slice, is_set_and_taken_back) {
  const Attributes before = own();
  if (before.policy != SCHED_OTHER && before.policy != SCHED_BATCH) return;
  set_slice(0, Slice::kUsual);  // it is
  cr_expect(own().runtime == before.runtime);
  set_slice(0, Slice::kLong);
  const Attributes at_length = own();
  set_slice(0, Slice::kShort);
  const Attributes brief = own();
  set_slice(0, Slice::kUsual);
  const Attributes after = own();
  if (before.runtime != 0) {
    cr_expect(at_length.runtime > before.runtime, "expected more than %lu, got %lu", before.runtime,
              at_length.runtime);
    cr_expect(brief.runtime < before.runtime, "expected less than %lu, got %lu", before.runtime,
              brief.runtime);
  }
  cr_expect(after.runtime == before.runtime, "expected %lu, got %lu", before.runtime,
            after.runtime);
}

Test(slice, leaves_policy_and_nice_as_they_are) {
  sched_param none{};
  cr_assert(sched_setscheduler(0, SCHED_BATCH, &none) == 0);
  cr_assert(setpriority(PRIO_PROCESS, 0, 7) == 0);
  for (const Slice s : {Slice::kLong, Slice::kShort, Slice::kUsual}) {
    set_slice(0, s);
    const Attributes now = own();
    cr_expect(now.policy == SCHED_BATCH, "expected %d, got %u", SCHED_BATCH, now.policy);
    cr_expect(now.nice == 7, "expected 7, got %d", now.nice);
  }
}

Test(slice, other_policies_are_left_alone) {
  sched_param none{};
  cr_assert(sched_setscheduler(0, SCHED_IDLE, &none) == 0);
  const Attributes before = own();
  set_slice(0, Slice::kLong);
  const Attributes now = own();
  cr_expect(now.policy == SCHED_IDLE && now.runtime == before.runtime);
}
