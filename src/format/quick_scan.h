// SPDX-License-Identifier: MIT
// quick_scan.h - looking at pages by PAGEMAP_SCAN, for both sides of the quick path: the program
// looks at itself, the agent at the program.
// Invariant: allocates nothing; what is found lies in a scratch area of the caller's.
// Context: N, S.
#pragma once

#include <errno.h>

#include "format/quick.h"
#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::format {

using QuickScratch = uint8_t[64 << 10];

// One PAGEMAP_SCAN after another over a range, region by region; the regions lie in scratch.
class PageScan {
 public:
  PageScan(QuickScratch& scratch, int pagemap, rawsys::PmScanArg arg)
      : pagemap_(pagemap), arg_(arg) {
    regions_ = reinterpret_cast<rawsys::PageRegion*>(scratch);
    arg_.size = sizeof(arg_);
    arg_.vec = reinterpret_cast<uint64_t>(regions_);
    arg_.vec_len = rawsys::kFewRegions;
  }
  // nullptr: the end, or error() != 0.
  const rawsys::PageRegion* next() {
    while (at_ == count_) {
      if (arg_.start >= arg_.end) return nullptr;
      count_ = rawsys::sys(__NR_ioctl, pagemap_, rawsys::kPagemapScan, &arg_);
      at_ = 0;
      if (count_ == rawsys::kFewRegions)
        arg_.vec_len = sizeof(QuickScratch) / sizeof(rawsys::PageRegion);
      if (count_ < 0 || (count_ == 0 && arg_.walk_end <= arg_.start)) {
        error_ = count_ < 0 ? count_ : -EIO;
        count_ = 0;
        return nullptr;
      }
      arg_.start = arg_.walk_end;
    }
    return &regions_[at_++];
  }
  long error() const { return error_; }

 private:
  int pagemap_;
  rawsys::PmScanArg arg_;
  rawsys::PageRegion* regions_;
  long count_ = 0, at_ = 0, error_ = 0;
};

inline rawsys::PmScanArg private_pages(uint64_t start, uint64_t end) {
  rawsys::PmScanArg arg{};
  arg.start = start;
  arg.end = end;
  arg.category_inverted = rawsys::kIsPfnZero | rawsys::kIsFile;
  arg.category_mask = rawsys::kIsPfnZero | rawsys::kIsFile;
  arg.category_anyof_mask = rawsys::kIsPresent | rawsys::kIsSwapped;
  arg.return_mask = rawsys::kIsPresent | rawsys::kIsSwapped;
  return arg;
}

// Ranges of mapped files, or runs of pages in them; ascending.
struct QuickRanges {
  const QuickRange* data;
  uint64_t count;
};
inline QuickRanges file_ranges(const QuickHead& head) {
  return {head.ranges + head.plan.anon_count, head.plan.file_count};
}

inline constexpr QuickRange kEverywhere{0, ~uint64_t{0}};

// One list of regions of all ranges, as far as they lie in `part`, neighbours joined:
// to(start, end) for each, which returns 0 or an error.
template <typename To>
long each_private(QuickRanges ranges, QuickRange part, QuickScratch& scratch, int pagemap, To to) {
  QuickRange last{};
  for (uint64_t i = 0; i < ranges.count; i++) {
    const QuickRange& all = ranges.data[i];
    const QuickRange range{all.start > part.start ? all.start : part.start,
                           all.end < part.end ? all.end : part.end};
    if (range.start >= range.end) continue;
    PageScan scan(scratch, pagemap, private_pages(range.start, range.end));
    while (const rawsys::PageRegion* r = scan.next()) {
      if (last.end == r->start) {
        last.end = r->end;
        continue;
      }
      const long e = last.end != 0 ? to(last) : 0;
      if (e != 0) return e;
      last = {r->start, r->end};
    }
    if (scan.error() != 0) return scan.error();
  }
  return last.end != 0 ? to(last) : 0;
}

// -ESTALE: a file's pages have become the program's own since the ordinary checkpoint, or were.
// part: begins and ends outside of the known runs.
inline long compare_private(QuickRanges files, QuickRange part, QuickRanges known,
                            QuickScratch& scratch, int pagemap) {
  uint64_t seen = 0, end = known.count;
  while (seen < end && known.data[seen].start < part.start) seen++;
  while (end > seen && known.data[end - 1].start >= part.end) end--;
  const long e = each_private(files, part, scratch, pagemap, [&](const QuickRange& r) -> long {
    if (seen == end) return -ESTALE;
    const QuickRange& expected = known.data[seen++];
    return expected.start == r.start && expected.end == r.end ? 0 : -ESTALE;
  });
  return e == 0 && seen != end ? -ESTALE : e;
}

}  // namespace cr::format
