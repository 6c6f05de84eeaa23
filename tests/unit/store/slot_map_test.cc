// SPDX-License-Identifier: MIT
// slot_map_test.cc - slots given to the pages of several volumes, against a map of single pages.
// Invariant under test: after any sequence of changes no two pages share a slot, a page that stays
// has its slot still, new ones have the lowest free slots, and a map made of the extents is the
// same map.
#include "store/slot_map.h"

#include <criterion/criterion.h>

#include <map>
#include <set>
#include <string>
#include <utility>

#include "tests/unit/nvheap/random.h"

namespace {

using cr::format::VolumeExtent;
using cr::store::PageRun;
using cr::store::SlotMap;
using cr_test::Random;

constexpr uint32_t kVolumes = 5;

class Model {
 public:
  void set(uint32_t volume, const std::set<uint64_t>& pages) {
    for (auto it = slots_.lower_bound({volume, 0});
         it != slots_.end() && it->first.first == volume;) {
      if (pages.contains(it->first.second)) {
        ++it;
        continue;
      }
      used_.erase(it->second);
      it = slots_.erase(it);
    }
    uint64_t lowest = 0;
    for (const uint64_t page : pages) {
      if (slots_.contains({volume, page})) continue;
      while (used_.contains(lowest)) lowest++;
      used_.insert(lowest);
      slots_[{volume, page}] = lowest;
    }
  }
  uint64_t slots() const { return used_.empty() ? 0 : *used_.rbegin() + 1; }
  void expect(const SlotMap& map) const {
    cr_assert_eq(map.slots(), slots());
    std::map<std::pair<uint32_t, uint64_t>, uint64_t> real;
    const VolumeExtent* last = nullptr;
    for (const VolumeExtent& e : map.extents()) {
      cr_assert_gt(e.pages, 0u);
      cr_assert_eq(e.reserved, 0u);
      if (last != nullptr) {
        cr_assert(e.volume > last->volume ||
                  (e.volume == last->volume && e.page >= last->page + last->pages));
        cr_assert(e.volume != last->volume || e.page != last->page + last->pages ||
                      e.slot != last->slot + last->pages,
                  "two extents that are one");
      }
      last = &e;
      for (uint64_t i = 0; i < e.pages; i++) real[{e.volume, e.page + i}] = e.slot + i;
    }
    cr_assert(real == slots_, "a page has another slot");
  }

 private:
  std::map<std::pair<uint32_t, uint64_t>, uint64_t> slots_;
  std::set<uint64_t> used_;
};

// Adjacent runs are given in one piece or in several.
std::vector<PageRun> runs_of(const std::set<uint64_t>& pages, Random& random) {
  std::vector<PageRun> runs;
  for (const uint64_t p : pages) {
    if (!runs.empty() && runs.back().page + runs.back().pages == p && !random.one_in(20)) {
      runs.back().pages++;
    } else {
      runs.push_back({p, 1});
    }
  }
  return runs;
}

void change(std::set<uint64_t>& pages, Random& random, uint64_t most) {
  const uint64_t begin = random.below(most), how = random.below(8);
  const uint64_t end = std::min(most, begin + 1 + random.below(how < 2 ? most : most / 8 + 1));
  if (how == 7) pages.clear();
  for (uint64_t p = begin; p < end; p++) {
    const bool gone = how % 3 == 1 || (how % 3 == 2 && random.one_in(2));
    if (gone) {
      pages.erase(p);
    } else {
      pages.insert(p);
    }
  }
}

cr::Errc adopt(const std::vector<VolumeExtent>& extents, uint64_t slots) {
  SlotMap map;
  map.set(3, {{0, 10}});
  const auto done = map.adopt(extents, slots);
  if (!done) {
    cr_assert(map.extents().empty() && map.slots() == 0, "the map is not empty");
    map.set(0, {{0, 2}});
    cr_assert_eq(map.slots(), 2u);
  }
  return done.error().code;
}

}  // namespace

Test(slot_map, is_what_a_map_of_single_pages_is) {
  Random random(cr_test::test_seed());
  for (int story = 0; story < 60; story++) {
    const uint64_t most = story % 3 == 0 ? 12 : story % 3 == 1 ? 80 : 600;
    SlotMap map;
    Model model;
    std::set<uint64_t> pages[kVolumes];
    for (int step = 0; step < 60; step++) {
      const auto volume = static_cast<uint32_t>(random.below(kVolumes));
      for (uint64_t k = random.below(3); k > 0; k--) change(pages[volume], random, most);
      map.set(volume, runs_of(pages[volume], random));
      model.set(volume, pages[volume]);
      model.expect(map);
      if (!random.one_in(5)) continue;
      // Another map that is made of this one's extents goes on in the same way.
      SlotMap other;
      other.set(2, {{5, 7}});
      cr_assert(other.adopt(map.extents(), map.slots() + random.below(3)).has_value());
      model.expect(other);
      map = other;
    }
  }
}

Test(slot_map, pages_far_up_are_as_good_as_others) {
  constexpr uint64_t kTop = (~uint64_t{0} >> 12) - 8;
  SlotMap map;
  map.set(0, {{kTop, 8}});
  map.set(0, {{0, 1}, {kTop + 2, 2}, {kTop + 7, 1}});
  cr_assert_eq(map.extents().size(), 3u);
  cr_assert_eq(map.extents()[0].slot, 0u);
  cr_assert_eq(map.extents()[1].slot, 2u);
  cr_assert_eq(map.extents()[2].slot, 7u);
  cr_assert_eq(map.slots(), 8u);
  map.set(0, {});
  cr_assert_eq(map.slots(), 0u);
}

Test(slot_map, extents_that_cannot_be_are_refused) {
  using cr::Errc;
  constexpr uint64_t kMost = ~uint64_t{0};
  cr_expect_eq(adopt({}, 0), Errc::kOk);
  cr_expect_eq(adopt({{0, 0, 0, 4, 0}, {0, 0, 9, 4, 4}}, 8), Errc::kOk);
  cr_expect_eq(adopt({{0, 0, 0, 4, 0}, {0, 0, 9, 4, 3}}, 8), Errc::kDamaged, "slot 3 twice");
  cr_expect_eq(adopt({{0, 0, 0, 4, 4}, {1, 0, 0, 8, 0}}, 8), Errc::kDamaged, "one in the other");
  cr_expect_eq(adopt({{0, 0, 0, 4, 5}}, 8), Errc::kDamaged, "behind the last slot");
  cr_expect_eq(adopt({{0, 0, 0, 1, 8}}, 8), Errc::kDamaged);
  cr_expect_eq(adopt({{0, 0, 0, kMost, 2}}, 8), Errc::kDamaged, "a sum that is too large");
  cr_expect_eq(adopt({{0, 0, 0, 2, kMost - 1}, {0, 0, 2, 2, 0}}, 8), Errc::kDamaged);
  cr_expect_eq(adopt({{0, 0, 0, kMost - 4, 4}, {0, 0, kMost, 1, 0}}, kMost), Errc::kOk);
}

Test(slot_map, room_that_becomes_free_is_used_from_below) {
  SlotMap map;
  map.set(0, {{0, 100}});
  map.set(1, {{0, 50}});
  map.set(0, {{0, 10}, {20, 10}, {90, 10}});  // free: 10-19, 30-89
  cr_assert_eq(map.slots(), 150u);
  map.set(1, {{0, 50}, {100, 15}});
  const auto& e = map.extents();
  cr_assert_eq(e.size(), 6u);
  cr_assert_eq(e[4].slot, 10u);
  cr_assert_eq(e[4].pages, 10u);
  cr_assert_eq(e[5].slot, 30u);
  cr_assert_eq(e[5].pages, 5u);
  map.set(1, {});
  cr_assert_eq(map.slots(), 100u);
}
