// SPDX-License-Identifier: MIT
// page_tracker.cc - see page_tracker.h. Invariant: as there. Context: N (agent).
#include "agent/page_tracker.h"

#include <algorithm>

namespace cr::agent {
namespace {

uint64_t end_of(const format::Run& r) { return r.addr + r.pages * kPageSize; }

}  // namespace

format::Run part(const format::Run& r, uint64_t from, uint64_t to) {
  format::Run p = r;
  if (r.staging_page != format::kPagesSame) p.staging_page += (from - r.addr) / kPageSize;
  p.addr = from;
  p.pages = (to - from) / kPageSize;
  return p;
}

void PageTracker::forget() { whole_ = false; }

void PageTracker::begin(bool tracking) {
  tracking_ = tracking;
  has_basis_ = tracking && whole_;
  whole_ = false;  // from here on pages count as not written; only a commit makes them known
  unknown_ = has_basis_ ? last_without_ : AddressSet::everything();
  early_.clear();
  sorted_early_.clear();
  next_early_ = 0;
  early_files_ = final_files_ = {};
}

// Did that checkpoint have just the file's pages there, and is the file the same?
bool PageTracker::has_file_part(const FileParts& then_parts, const store::Model& model,
                                const format::Range& r) {
  const auto find = [&](const std::vector<format::SegmentRecord>& all) {
    const auto it = std::ranges::lower_bound(all, r.map_start, {}, &format::SegmentRecord::start);
    return it != all.end() && it->start == r.map_start ? &*it : nullptr;
  };
  const format::SegmentRecord *now = find(model.segments), *then = find(then_parts.segments);
  if (now == nullptr || then == nullptr) return false;
  if (now->kind == format::kSegmentVdso) return then->kind == now->kind && then->end == now->end;
  // A file that was written in the same instant has the same time stamp.
  constexpr int64_t kSettledNs = 2000000000;
  return then->kind == now->kind && then->end == now->end && then->dev == now->dev &&
         then->ino == now->ino && then->file_off == now->file_off &&
         then->file_bytes == now->file_bytes && then->file_mtime_ns == now->file_mtime_ns &&
         ((then->flags | now->flags) & format::kSegmentDeleted) == 0 &&
         then->file_mtime_ns + kSettledNs < then_parts.realtime_ns;
}

// In which mappings of files no page was changed by the program.
void PageTracker::note_file_parts(const format::Range* ranges, uint64_t count,
                                  const store::Model& model, bool only_fresh, FileParts& ret) {
  size_t at = 0;
  for (uint64_t i = 0; i < count; i++) {
    const format::Range r = ranges[i];
    if (r.mode != format::kRangeEmbed || r.has_private != 0) continue;
    if (only_fresh && r.fresh == 0) continue;  // nobody looked
    while (at < model.segments.size() && model.segments[at].start < r.map_start) at++;
    if (at < model.segments.size() && model.segments[at].start == r.map_start) {
      ret.segments.push_back(model.segments[at]);
    }
  }
}

void PageTracker::mark_fresh(std::vector<format::Range>& ranges, const store::Model& model,
                             size_t most_ranges) const {
  if (!tracking_) {
    for (format::Range& r : ranges) r.fresh = 1;
    return;
  }
  std::vector<format::Range> out;
  size_t hint = 0;
  for (format::Range r : ranges) {
    if (r.mode == format::kRangeEmbed) {
      r.fresh = (has_basis_ && has_file_part(last_files_, model, r)) ||
                        has_file_part(early_files_, model, r)
                    ? 0
                    : 1;
      out.push_back(r);
      continue;
    }
    const auto push = [&](uint64_t start, uint64_t end, uint32_t fresh) {
      format::Range p = r;
      p.start = start;
      p.end = end;
      p.fresh = fresh;
      out.push_back(p);
    };
    split(
        unknown_.ranges(), r.start, r.end, &hint,
        [&](uint64_t start, uint64_t end) { push(start, end, 1); },
        [&](uint64_t start, uint64_t end) { push(start, end, 0); });
  }
  if (out.size() <= most_ranges) {
    ranges = std::move(out);
  } else {
    for (format::Range& r : ranges) r.fresh = 1;
  }
}

void PageTracker::add_early(EarlyPass pass, const store::Model& model, const FileCheck& is_right) {
  std::vector<AddressRange> seen;
  const uint64_t through = std::min(pass.cursor_range, pass.range_count);
  for (uint64_t i = 0; i < through; i++) {
    if (pass.ranges[i].mode != format::kRangeAll) {
      seen.push_back({pass.ranges[i].start, pass.ranges[i].end});
    }
  }
  if (pass.cursor_range < pass.range_count) {
    const format::Range& r = pass.ranges[pass.cursor_range];
    if (r.mode != format::kRangeAll) seen.push_back({r.start, pass.cursor_addr});
  }
  if (!pass.knows_its_copies) {
    unknown_.remove(AddressSet(std::move(seen)));
    unknown_.add(pass.spoiled);
  }
  if (early_files_.segments.empty()) {
    note_file_parts(pass.ranges, through, model, /*only_fresh=*/true, early_files_);
    std::erase_if(early_files_.segments, [&](const format::SegmentRecord& s) {
      return s.kind != format::kSegmentVdso && !is_right(s, pass.runs);
    });
    early_files_.realtime_ns = pass.realtime_ns;
  }
  early_.insert(early_.begin(), std::move(pass.runs));
}

// One list of all passes, the newest copy of each page.
void PageTracker::sort_early() {
  std::vector<format::Run> merged;
  for (std::vector<format::Run>& runs : early_) {
    std::ranges::sort(runs, {}, &format::Run::addr);
    std::vector<AddressRange> covered;
    for (const format::Run& r : merged) covered.push_back({r.addr, end_of(r)});
    const size_t newer = merged.size();
    size_t hint = 0;
    for (const format::Run& r : runs) {
      split(
          covered, r.addr, end_of(r), &hint, [](uint64_t, uint64_t) {},
          [&](uint64_t from, uint64_t to) { merged.push_back(part(r, from, to)); });
    }
    std::ranges::inplace_merge(merged, merged.begin() + static_cast<ptrdiff_t>(newer), {},
                               &format::Run::addr);
  }
  early_.clear();
  sorted_early_ = std::move(merged);
}

void PageTracker::note_final(const format::Range* ranges, uint64_t count,
                             const store::Model& model) {
  note_file_parts(ranges, count, model, /*only_fresh=*/false, final_files_);
}

std::vector<format::Run> PageTracker::resolve(const std::vector<format::Run>& runs) {
  if (!early_.empty()) sort_early();
  std::vector<format::Run> out;
  for (const format::Run& r : runs) {
    if (r.staging_page != format::kPagesSame || sorted_early_.empty()) {
      out.push_back(r);
      continue;
    }
    const std::vector<format::Run>& e = sorted_early_;
    uint64_t at = r.addr;
    while (next_early_ < e.size() && end_of(e[next_early_]) <= at) next_early_++;
    for (size_t i = next_early_; at < end_of(r); i++) {
      const bool none = i == e.size() || e[i].addr >= end_of(r);
      const uint64_t from = none ? end_of(r) : std::max(at, e[i].addr);
      if (from > at) out.push_back(part(r, at, from));
      if (none) break;
      const uint64_t to = std::min(end_of(r), end_of(e[i]));
      out.push_back(part(e[i], from, to));
      at = to;
    }
  }
  return out;
}

void PageTracker::commit(AddressSet without, int64_t realtime_ns) {
  last_without_ = std::move(without);
  last_files_ = std::move(final_files_);
  last_files_.realtime_ns = realtime_ns;
  whole_ = tracking_;
}

}  // namespace cr::agent
