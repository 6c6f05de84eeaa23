// SPDX-License-Identifier: MIT
// address_set_test.cc - sets of addresses against a plain bitmap.
#include "agent/address_set.h"

#include <criterion/criterion.h>

#include <bitset>

#include "tests/unit/nvheap/random.h"

using cr::agent::AddressRange;
using cr::agent::AddressSet;
using cr_test::Random;

namespace {

constexpr size_t kPlaces = 64;
using Bits = std::bitset<kPlaces>;

Bits bits_of(const AddressSet& set) {
  Bits bits;
  uint64_t last = 0;
  for (size_t i = 0; i < set.ranges().size(); i++) {
    const AddressRange& r = set.ranges()[i];
    cr_assert(r.start < r.end, "an empty range");
    cr_assert(i == 0 || r.start > last, "ranges touch or are not ascending");
    last = r.end;
    for (uint64_t at = r.start; at < r.end; at++) bits.set(at);
  }
  return bits;
}

AddressSet random_set(Random& random, Bits* ret_bits) {
  std::vector<AddressRange> ranges;
  for (uint64_t n = random.below(6); n > 0; n--) {
    const uint64_t start = random.below(kPlaces), end = start + random.below(12);
    ranges.push_back({start, std::min<uint64_t>(end, kPlaces)});
    for (uint64_t at = start; at < ranges.back().end; at++) ret_bits->set(at);
  }
  return AddressSet(std::move(ranges));
}

}  // namespace

Test(address_set, adds_and_removes_like_a_bitmap) {
  Random random(1);
  for (int i = 0; i < 20000; i++) {
    Bits a_bits, b_bits;
    AddressSet a = random_set(random, &a_bits);
    const AddressSet b = random_set(random, &b_bits);
    cr_assert(bits_of(a) == a_bits);
    if (random.below(2) == 0) {
      a.add(b);
      cr_assert(bits_of(a) == (a_bits | b_bits));
    } else {
      a.remove(b);
      cr_assert(bits_of(a) == (a_bits & ~b_bits));
    }
  }
}

Test(address_set, splits_ascending_ranges) {
  Random random(2);
  for (int i = 0; i < 5000; i++) {
    Bits bits;
    const AddressSet set = random_set(random, &bits);
    size_t hint = 0;
    uint64_t at = 0;
    while (at < kPlaces) {
      const uint64_t end = std::min<uint64_t>(kPlaces, at + 1 + random.below(20));
      uint64_t next = at;
      cr::agent::split(
          set.ranges(), at, end, &hint,
          [&](uint64_t from, uint64_t to) {
            cr_assert(from == next && from < to);
            for (next = from; next < to; next++) cr_assert(bits.test(next));
          },
          [&](uint64_t from, uint64_t to) {
            cr_assert(from == next && from < to);
            for (next = from; next < to; next++) cr_assert(!bits.test(next));
          });
      cr_assert_eq(next, end);
      at = end;
    }
  }
}

Test(address_set, keeps_the_largest) {
  std::vector<AddressRange> ranges = {{0, 1}, {10, 15}, {20, 22}, {30, 40}};
  cr::agent::keep_largest(ranges, 2);
  const AddressSet left(std::move(ranges));
  cr_assert(left == AddressSet({{10, 15}, {30, 40}}));
}
