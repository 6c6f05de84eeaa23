// SPDX-License-Identifier: MIT
// time_namespace_test.cc - the offsets that a time namespace is given.
// Invariant: as the code under test. Context: N.
#include "agent/time_namespace.h"

#include <criterion/criterion.h>

using cr::agent::clock_offsets;

Test(time_namespace, clocks_that_are_behind_and_ahead) {
  cr_expect(clock_offsets({5500000000, 9000000000}, {2250000000, 9000000000}) ==
            "monotonic 3 250000000\nboottime 0 0\n");
  // Fractions are never negative, as the kernel wants them.
  cr_expect(clock_offsets({1000000000, 7999999999}, {1000000001, 9000000000}) ==
            "monotonic -1 999999999\nboottime -2 999999999\n");
  cr_expect(clock_offsets({1000000000, 0}, {3000000000, 1}) ==
            "monotonic -2 0\nboottime -1 999999999\n");
}
