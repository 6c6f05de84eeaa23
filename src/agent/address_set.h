// SPDX-License-Identifier: MIT
// address_set.h - a set of addresses as sorted ranges.
// Invariant: the ranges ascend, none is empty, no two overlap or touch.
// Context: N (agent).
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <vector>

namespace cr::agent {

struct AddressRange {
  uint64_t start, end;
  bool operator==(const AddressRange&) const = default;
};

class AddressSet {
 public:
  AddressSet() = default;
  // In any order; overlapping and empty ones are fine.
  explicit AddressSet(std::vector<AddressRange> ranges);
  static AddressSet everything() { return AddressSet({{0, ~uint64_t{0}}}); }

  void add(const AddressSet& other);
  void remove(const AddressSet& other);
  const std::vector<AddressRange>& ranges() const { return ranges_; }
  bool empty() const { return ranges_.empty(); }
  bool operator==(const AddressSet&) const = default;

 private:
  std::vector<AddressRange> ranges_;
};

// Calls inside(start, end) for the parts of [start, end) in the set and outside(start, end) for the
// others, ascending. *hint: where to begin; for calls with ascending, disjoint ranges it saves the
// search, for others set it to 0 before.
template <typename Inside, typename Outside>
void split(const std::vector<AddressRange>& set, uint64_t start, uint64_t end, size_t* hint,
           Inside inside, Outside outside) {
  while (*hint < set.size() && set[*hint].end <= start) ++*hint;
  for (size_t i = *hint; start < end; i++) {
    const bool none = i == set.size() || set[i].start >= end;
    const uint64_t from = none ? end : set[i].start;
    if (from > start) outside(start, from);
    if (none) return;
    const uint64_t first = from > start ? from : start;
    const uint64_t last = set[i].end < end ? set[i].end : end;
    inside(first, last);
    start = last;
  }
}

// Leaves the `most` largest, in any order.
void keep_largest(std::vector<AddressRange>& ranges, size_t most);

}  // namespace cr::agent
