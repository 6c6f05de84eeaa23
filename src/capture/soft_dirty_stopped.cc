// SPDX-License-Identifier: MIT
// soft_dirty_stopped.cc - see soft_dirty.h. Invariant: as there. Context: S; reserve N.
#include "capture/soft_dirty.h"

#include <errno.h>

#include "rawsys/rawsys.h"

namespace cr::capture {

long SoftDirty::reserve(uint64_t pages) {
  const uint64_t most = pages * kPageSize / 16 / sizeof(Entry);
  uint64_t wanted = pages < most ? pages : most;
  constexpr uint64_t kLeast = kPageSize / sizeof(Entry);
  if (wanted < kLeast) wanted = kLeast;
  if (wanted <= capacity_) return 0;
  SideMemory fresh;
  const long e = make_side_memory(wanted * sizeof(Entry), &fresh);
  if (e != 0) return e;
  clear();
  memory_ = fresh;
  list_ = reinterpret_cast<Entry*>(fresh.data);
  capacity_ = wanted;
  return 0;
}

void SoftDirty::clear() {
  free_side_memory(memory_);
  list_ = nullptr;
  capacity_ = count_ = known_end_ = 0;
}

bool SoftDirty::add(const PageRange& found) {
  const uint64_t written = found.state == PageState::kWritten ? 1 : 0;
  if (count_ > 0) {
    Entry& last = list_[count_ - 1];
    if (end_of(last) == found.start && (last.end_and_state & 1) == written) {
      last.end_and_state = found.end | written;
      return true;
    }
  }
  if (count_ == capacity_) return false;
  list_[count_++] = {found.start, found.end | written};
  return true;
}

long SoftDirty::read_marks(int pagemap, bool use_scan, const format::Range& r) {
  constexpr uint64_t kBatch = 64;
  PageRange found[kBatch];
  for (uint64_t at = r.start; at < r.end;) {
    uint64_t next = 0;
    const long n = find_marked(pagemap, use_scan, at, r.end, found, kBatch, &next);
    if (n < 0) return n;
    for (long i = 0; i < n; i++) {
      if (add(found[i])) continue;
      known_end_ = found[i].start;
      return 0;
    }
    if (next <= at) return -EIO;
    at = next;
  }
  return 0;
}

long SoftDirty::take_marks(int pagemap, bool use_scan, int clear_refs,
                           const format::ChannelHeader& channel) {
  const auto* ranges = reinterpret_cast<const format::Range*>(
      reinterpret_cast<const uint8_t*>(&channel) + channel.ranges_off);
  count_ = 0;
  known_end_ = ~uint64_t{0};
  for (uint64_t i = 0; i < channel.range_count && known_end_ == ~uint64_t{0}; i++) {
    if (ranges[i].mode != format::kRangeAnon) continue;
    const long e = read_marks(pagemap, use_scan, ranges[i]);
    if (e != 0) return e;
  }
  static constexpr char kSoftDirtyMarks[] = {'4'};
  const long r = rawsys::sys_write(clear_refs, kSoftDirtyMarks, sizeof(kSoftDirtyMarks));
  return r < 0 ? r : 0;
}

uint64_t SoftDirty::listed(uint64_t start, uint64_t end, PageRange* out, uint64_t cap,
                           uint64_t* ret_next) const {
  uint64_t low = 0, high = count_;  // the first that ends behind start
  while (low < high) {
    const uint64_t mid = low + (high - low) / 2;
    if (end_of(list_[mid]) <= start) {
      low = mid + 1;
    } else {
      high = mid;
    }
  }
  uint64_t n = 0;
  *ret_next = end;
  for (; low < count_ && list_[low].start < end; low++) {
    if (n == cap) {
      *ret_next = list_[low].start;
      break;
    }
    const Entry& e = list_[low];
    out[n++] = {e.start > start ? e.start : start, end_of(e) < end ? end_of(e) : end,
                (e.end_and_state & 1) != 0 ? PageState::kWritten : PageState::kSame};
  }
  return n;
}

}  // namespace cr::capture
