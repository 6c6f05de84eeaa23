// SPDX-License-Identifier: MIT
// slot_map.h - which slot each page of a protected session has, in all parts and for as long as the
// page lives, however often the image's own slots change.
// Invariant: no two pages share a slot; a page that stays keeps its slot, so that the next
// checkpoint's parts differ only where memory does.
// Context: N. Doc: docs/store.md.
#pragma once

#include <stdint.h>

#include <span>
#include <vector>

#include "base/base.h"
#include "format/part.h"

namespace cr::store {

struct PageRun {
  uint64_t page, pages;
};
struct SlotRange {
  uint64_t first, count;
};

class SlotMap {
 public:
  // What a description says. kDamaged: two extents share a slot; the map is empty then.
  Result<void> adopt(std::span<const format::VolumeExtent> extents, uint64_t slots);
  // The volume has these pages from now on, ascending and disjoint. New ones get the lowest free
  // slots; what it had besides is free.
  void set(uint32_t volume, const std::vector<PageRun>& runs);

  // Sorted by volume and page.
  const std::vector<format::VolumeExtent>& extents() const { return extents_; }
  // One more than the highest slot in use.
  uint64_t slots() const { return slots_; }

 private:
  void release(uint64_t first, uint64_t count);
  void settle();
  SlotRange take(uint64_t most);

  std::vector<format::VolumeExtent> extents_;
  std::vector<SlotRange> free_;  // ascending, disjoint, not side by side
  std::vector<SlotRange> released_;
  uint64_t slots_ = 0;
};

}  // namespace cr::store
