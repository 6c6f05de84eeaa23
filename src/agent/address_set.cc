// SPDX-License-Identifier: MIT
// address_set.cc - see address_set.h. Invariant: as there. Context: N (agent).
#include "agent/address_set.h"

#include <algorithm>
#include <functional>

namespace cr::agent {

AddressSet::AddressSet(std::vector<AddressRange> ranges) : ranges_(std::move(ranges)) {
  std::ranges::sort(ranges_, {}, &AddressRange::start);
  size_t used = 0;
  for (const AddressRange& r : ranges_) {
    if (r.start >= r.end) continue;
    if (used > 0 && r.start <= ranges_[used - 1].end) {
      ranges_[used - 1].end = std::max(ranges_[used - 1].end, r.end);
    } else {
      ranges_[used++] = r;
    }
  }
  ranges_.resize(used);
}

void AddressSet::add(const AddressSet& other) {
  if (other.empty()) return;
  std::vector<AddressRange> all = std::move(ranges_);
  all.insert(all.end(), other.ranges_.begin(), other.ranges_.end());
  *this = AddressSet(std::move(all));
}

void AddressSet::remove(const AddressSet& other) {
  if (other.empty() || empty()) return;
  std::vector<AddressRange> left;
  size_t hint = 0;
  for (const AddressRange& r : ranges_) {
    split(
        other.ranges_, r.start, r.end, &hint, [](uint64_t, uint64_t) {},
        [&](uint64_t start, uint64_t end) {
          left.push_back({start, end});
        });
  }
  ranges_ = std::move(left);
}

void keep_largest(std::vector<AddressRange>& ranges, size_t most) {
  if (ranges.size() <= most) return;
  const auto bytes = [](const AddressRange& r) { return r.end - r.start; };
  std::ranges::nth_element(ranges, ranges.begin() + static_cast<ptrdiff_t>(most), std::greater{},
                           bytes);
  ranges.resize(most);
}

}  // namespace cr::agent
