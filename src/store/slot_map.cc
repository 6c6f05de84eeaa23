// SPDX-License-Identifier: MIT
// slot_map.cc - see slot_map.h. Invariant: as there. Context: N.
#include "store/slot_map.h"

#include <algorithm>

namespace cr::store {

using format::VolumeExtent;

Result<void> SlotMap::adopt(std::span<const VolumeExtent> extents, uint64_t slots) {
  *this = SlotMap();
  std::vector<SlotRange> used;
  used.reserve(extents.size());
  for (const VolumeExtent& e : extents) used.push_back({e.slot, e.pages});
  std::ranges::sort(used, {}, &SlotRange::first);
  uint64_t at = 0;
  std::vector<SlotRange> free;
  for (const SlotRange& u : used) {
    if (u.first > slots || u.count > slots - u.first) {
      return Error{Errc::kDamaged, 0, "an extent's slots are out of range"};
    }
    if (u.first < at) return Error{Errc::kDamaged, 0, "two extents share a slot"};
    if (u.first > at) free.push_back({at, u.first - at});
    at = u.first + u.count;
  }
  extents_.assign(extents.begin(), extents.end());
  free_ = std::move(free);
  slots_ = at;
  return {};
}

void SlotMap::release(uint64_t first, uint64_t count) {
  if (count > 0) released_.push_back({first, count});
}

// What was released joins the free slots; free ones at the end are no slots any more.
void SlotMap::settle() {
  free_.insert(free_.end(), released_.begin(), released_.end());
  released_.clear();
  std::ranges::sort(free_, {}, &SlotRange::first);
  std::vector<SlotRange> joined;
  for (const SlotRange& r : free_) {
    if (!joined.empty() && joined.back().first + joined.back().count == r.first) {
      joined.back().count += r.count;
    } else {
      joined.push_back(r);
    }
  }
  free_ = std::move(joined);
}

// The lowest free slots that lie side by side, `most` at most.
SlotRange SlotMap::take(uint64_t most) {
  if (free_.empty()) {
    slots_ += most;
    return {slots_ - most, most};
  }
  SlotRange& r = free_.back();  // kept the other way round while slots are given out
  const uint64_t count = std::min(r.count, most);
  const SlotRange taken{r.first, count};
  r.first += count;
  r.count -= count;
  if (r.count == 0) free_.pop_back();
  return taken;
}

void SlotMap::set(uint32_t volume, const std::vector<PageRun>& runs) {
  const auto [from, to] = std::ranges::equal_range(extents_, volume, {}, &VolumeExtent::volume);
  std::vector<VolumeExtent> now;
  std::vector<size_t> fresh;  // of `now`: without a slot yet
  auto old = from;
  uint64_t old_at = old == to ? 0 : old->page;  // of *old: the first page that is not behind us
  const auto release_until = [&](uint64_t page) {
    while (old != to && old_at < page) {
      const uint64_t end = std::min(page, old->page + old->pages);
      release(old->slot + (old_at - old->page), end - old_at);
      old_at = end;
      if (old_at == old->page + old->pages && ++old != to) old_at = old->page;
    }
  };
  for (const PageRun& run : runs) {
    uint64_t at = run.page;
    const uint64_t end = run.page + run.pages;
    release_until(at);
    while (at < end) {
      if (old == to || old_at >= end) {
        fresh.push_back(now.size());
        now.push_back({volume, 0, at, end - at, 0});
        at = end;
      } else if (at < old_at) {
        fresh.push_back(now.size());
        now.push_back({volume, 0, at, old_at - at, 0});
        at = old_at;
      } else {
        const uint64_t stop = std::min(end, old->page + old->pages);
        now.push_back({volume, 0, at, stop - at, old->slot + (at - old->page)});
        at = old_at = stop;
        if (old_at == old->page + old->pages && ++old != to) old_at = old->page;
      }
    }
  }
  release_until(~uint64_t{0});
  settle();
  std::ranges::reverse(free_);
  std::vector<VolumeExtent> placed;
  size_t next_fresh = 0;
  const auto put = [&](const VolumeExtent& e) {
    if (!placed.empty()) {
      VolumeExtent& last = placed.back();
      if (last.page + last.pages == e.page && last.slot + last.pages == e.slot) {
        last.pages += e.pages;
        return;
      }
    }
    placed.push_back(e);
  };
  for (size_t i = 0; i < now.size(); i++) {
    if (next_fresh == fresh.size() || fresh[next_fresh] != i) {
      put(now[i]);
      continue;
    }
    next_fresh++;
    for (VolumeExtent left = now[i]; left.pages > 0;) {
      const SlotRange r = take(left.pages);
      put({volume, 0, left.page, r.count, r.first});
      left.page += r.count;
      left.pages -= r.count;
    }
  }
  std::ranges::reverse(free_);
  const auto at = extents_.erase(from, to);
  extents_.insert(at, placed.begin(), placed.end());
  if (!free_.empty() && free_.back().first + free_.back().count == slots_) {
    slots_ = free_.back().first;
    free_.pop_back();
  }
}

}  // namespace cr::store
