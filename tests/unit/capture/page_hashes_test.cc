// SPDX-License-Identifier: MIT
// page_hashes_test.cc - random use against a map.
// Invariant under test: a page is the same only if that hash was its newest, at least as new as
// asked for; with room for everything nothing is forgotten.
#include "capture/page_hashes.h"

#include <criterion/criterion.h>

#include <map>

#include "tests/unit/nvheap/random.h"

using cr::kPageSize;
using cr::capture::PageHashes;
using cr_test::Random;

namespace {

struct Entry {
  uint64_t hash, stamp;
};

uint64_t random_page(Random& random) {
  const uint64_t area = random.below(3) * (uint64_t{1} << 40);
  return area + random.below(3000) * kPageSize * (area == 0 ? 1 : 40);
}

}  // namespace

Test(page_hashes, agree_with_a_map) {
  Random random(7);
  PageHashes hashes;
  std::map<uint64_t, Entry> model;
  uint64_t stamp = 4;
  cr_assert_eq(hashes.reserve(200000, 0), 0);
  for (int i = 0; i < 300000; i++) {
    const uint64_t page = random_page(random), hash = random.below(3);
    switch (random.below(4)) {
      case 0:
        hashes.forget(page, page + kPageSize);
        model.erase(page);
        break;
      case 1:
        hashes.note(page, hash, stamp);
        model[page] = {hash, stamp};
        break;
      default: {
        const uint64_t least = stamp - random.below(3);
        const auto it = model.find(page);
        const bool same = it != model.end() && it->second.hash == hash && it->second.stamp >= least;
        cr_assert_eq(hashes.is_same(page, hash, least), same);
      }
    }
    if (random.below(5000) == 0) {
      stamp += 2;
      cr_assert_eq(hashes.reserve(200000 + random.below(100000), stamp - 3), 0);
    }
  }
  hashes.clear();
  cr_assert_not(hashes.ready());
}

Test(page_hashes, a_full_table_knows_less_and_nothing_false) {
  Random random(8);
  PageHashes hashes;
  cr_assert_eq(hashes.reserve(1, 0), 0);
  uint64_t known = 0;
  constexpr uint64_t kMany = 100000, kApart = 64 * kPageSize;
  for (uint64_t i = 0; i < kMany; i++) hashes.note(i * kApart, i, 5);
  for (uint64_t i = 0; i < kMany; i++) {
    known += hashes.is_same(i * kApart, i, 5) ? 1 : 0;
    cr_assert_not(hashes.is_same(i * kApart, i + 1, 5));
  }
  cr_assert(known > 0 && known < kMany / 10);
  hashes.clear();
}
