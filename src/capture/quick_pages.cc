// SPDX-License-Identifier: MIT
// quick_pages.cc - see quick_pages.h. Invariant: as there. Context: N; list_private() S.
#include "capture/quick_pages.h"

#include <errno.h>
#include <sys/uio.h>

#include "format/quick_scan.h"
#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::capture {
namespace {

using namespace rawsys;  // the kernel's names
using format::PageScan;
using format::QuickHead;
using format::QuickRange;
using format::Run;

// Marking may find more than the list did.
constexpr uint64_t kSparePages = 16;
// Run::staging_page in a list. From kOfCopies on: and the number of the first page's copy.
constexpr uint64_t kWrittenPages = 0, kOfFile = 1, kOfCopies = 2;

PmScanArg written(uint64_t start, uint64_t end) {
  PmScanArg arg{};
  arg.start = start;
  arg.end = end;
  arg.flags = kScanCheckAsync | kScanWriteProtect;
  arg.category_inverted = kIsPfnZero;
  arg.category_mask = kIsPfnZero | kIsWritten;
  arg.category_anyof_mask = kIsPresent | kIsSwapped;
  arg.return_mask = kIsPresent | kIsSwapped;
  return arg;
}

uint64_t pages_of(const PageRegion& r) { return (r.end - r.start) / kPageSize; }

// Grows a list of runs, neighbours of one kind being one.
class List {
 public:
  List(Run* runs, uint64_t count, uint64_t most) : runs_(runs), count_(count), most_(most) {}
  bool add(uint64_t start, uint64_t pages, uint64_t what) {
    if (count_ > 0) {
      Run& last = runs_[count_ - 1];
      if (last.staging_page == what && last.addr + last.pages * kPageSize == start) {
        last.pages += pages;
        return true;
      }
    }
    if (count_ == most_) return false;
    runs_[count_++] = {start, pages, what};
    return true;
  }
  uint64_t count() const { return count_; }

 private:
  Run* runs_;
  uint64_t count_, most_;
};

long list_anonymous(QuickHead& head, int pagemap, List& list, uint64_t* pages) {
  for (uint64_t i = 0; i < head.plan.anon_count; i++) {
    PageScan scan(head.scratch, pagemap,
                  scan_of_differences(head.ranges[i].start, head.ranges[i].end));
    while (const PageRegion* r = scan.next()) {
      const bool there = (r->categories & (kIsPresent | kIsSwapped)) != 0;
      const bool data = there && (r->categories & kIsPfnZero) == 0;
      if (data && (r->categories & kIsWritten) == 0) continue;  // swapped, not written
      if (!list.add(r->start, pages_of(*r), data ? kWrittenPages : format::kPagesGone))
        return -E2BIG;
      if (data) *pages += pages_of(*r);
    }
    if (scan.error() != 0) return scan.error();
  }
  return 0;
}

uint64_t bytes_in_both(const QuickRange& a, const QuickRange& b) {
  const uint64_t from = a.start > b.start ? a.start : b.start;
  const uint64_t to = a.end < b.end ? a.end : b.end;
  return to > from ? to - from : 0;
}

// So many of these pages were found as well when pages were marked the last time. These are what
// the next time compares with.
uint64_t compare_with_last(QuickHead& head, const Run* runs, uint64_t count) {
  QuickRange* last = head.last_runs;
  uint64_t same = 0, at = 0;
  for (uint64_t i = 0; i < count; i++) {
    const QuickRange now{runs[i].addr, runs[i].addr + runs[i].pages * kPageSize};
    while (at < head.last_run_count && last[at].end <= now.start) at++;
    for (uint64_t k = at; k < head.last_run_count && last[k].start < now.end; k++) {
      same += bytes_in_both(now, last[k]) / kPageSize;
    }
  }
  for (uint64_t i = 0; i < count; i++) {
    last[i] = {runs[i].addr, runs[i].addr + runs[i].pages * kPageSize};
  }
  head.last_run_count = count;
  return same;
}

// From the first to the last run of the list that lies in the range and holds data.
QuickRange hull(const QuickFound& found, const Run* runs, const QuickRange& range, uint64_t* at) {
  QuickRange h{};
  for (; *at < found.anonymous_runs && runs[*at].addr < range.end; ++*at) {
    const Run& r = runs[*at];
    if (r.staging_page == format::kPagesGone) continue;
    if (h.end == 0) h.start = r.addr;
    h.end = r.addr + r.pages * kPageSize;
  }
  return h;
}

// The private pages of files are few and seldom written, but nobody counts writes to them. A copy
// of each stays where the processor finds it quickly; the ring's memory is far away, and what lies
// there the agent would compare as well. The copies are what goes to the ring, so that they are as
// the image even if a page is written in between.
long keep_changed(QuickHead& head, QuickFound* found) {
  uint64_t first = 0, pages = 0;
  while (first < found->runs && head.runs[first].staging_page != kOfFile) first++;
  for (uint64_t i = first; i < found->runs; i++) pages += head.runs[i].pages;
  const bool known = head.copies == format::kCopiesLast;
  head.copies = format::kCopiesNone;
  if (head.plan.plain == 0 || pages > format::kQuickCopyPages) return 0;
  Run* const to = head.marked_runs;
  uint64_t count = 0, number = 0;
  for (uint64_t i = first; i < found->runs; i++) {
    for (uint64_t p = 0; p < head.runs[i].pages; p++, number++) {
      const uint64_t addr = head.runs[i].addr + p * kPageSize;
      const auto* page = reinterpret_cast<const void*>(addr);
      uint8_t* const copy = format::quick_copies(&head) + number * kPageSize;
      if (known && __builtin_memcmp(copy, page, kPageSize) == 0) continue;
      __builtin_memcpy(copy, page, kPageSize);
      Run* last = count > 0 ? &to[count - 1] : nullptr;
      if (last != nullptr && last->addr + last->pages * kPageSize == addr &&
          last->staging_page + last->pages == kOfCopies + number) {
        last->pages++;
      } else if (first + count == format::kQuickMostRuns) {
        return -E2BIG;
      } else {
        to[count++] = {addr, 1, kOfCopies + number};
      }
    }
  }
  __builtin_memcpy(head.runs + first, to, count * sizeof(Run));
  found->runs = first + count;
  head.copies = format::kCopiesNext;
  return 0;
}

// Where the run's pages are read.
uint64_t source_of(QuickHead& head, const Run& r) {
  if (r.staging_page < kOfCopies) return r.addr;
  return reinterpret_cast<uint64_t>(format::quick_copies(&head)) +
         (r.staging_page - kOfCopies) * kPageSize;
}

}  // namespace

long quick_find(QuickHead& head, int pagemap, QuickFound* ret) {
  List list(head.runs, 0, format::kQuickMostRuns);
  *ret = {};
  const long e = list_anonymous(head, pagemap, list, &ret->anonymous_pages);
  if (e != 0) return e;
  ret->anonymous_runs = list.count();
  ret->pages = ret->anonymous_pages + kSparePages;
  for (uint64_t i = 0; i < head.plan.private_count; i++) {
    const QuickRange& r = head.private_runs[i];
    const uint64_t pages = (r.end - r.start) / kPageSize;
    ret->pages += pages;
    if (!list.add(r.start, pages, kOfFile)) return -E2BIG;
  }
  ret->runs = list.count();
  return ret->pages > format::kQuickMostPages ? -E2BIG : 0;
}

// The list is made anew, of what was marked: another thread of the library's may have written to a
// page in between.
long quick_mark(QuickHead& head, int pagemap, QuickFound* found) {
  const bool hot = head.hot != 0 && head.unmarked < kUnmarked;
  if (hot && found->anonymous_pages <= head.last_pages + head.last_pages / 4 + kSparePages) {
    head.unmarked++;
    return 0;
  }
  List list(head.marked_runs, 0, format::kQuickMostRuns);
  uint64_t at = 0, pages = 0;
  head.marking = 1;
  for (uint64_t i = 0; i < head.plan.anon_count; i++) {
    const QuickRange h = hull(*found, head.runs, head.ranges[i], &at);
    PageScan scan(head.scratch, pagemap, written(h.start, h.end));
    while (const PageRegion* r = scan.next()) {
      if (!list.add(r->start, pages_of(*r), kWrittenPages)) return -E2BIG;
      pages += pages_of(*r);
    }
    if (scan.error() != 0) return scan.error();
  }
  const uint64_t same = compare_with_last(head, head.marked_runs, list.count());
  head.hot = pages > 0 && same >= pages - pages / 4 ? 1 : 0;
  head.unmarked = 0;
  head.last_pages = pages;
  for (uint64_t i = 0; i < found->runs; i++) {
    const Run& r = head.runs[i];
    if (r.staging_page != kWrittenPages && !list.add(r.addr, r.pages, r.staging_page)) {
      return -E2BIG;
    }
  }
  if (pages > found->anonymous_pages + kSparePages) return -E2BIG;
  __builtin_memcpy(head.runs, head.marked_runs, list.count() * sizeof(Run));
  found->runs = list.count();
  return 0;
}

long quick_copy(QuickHead& head, uint64_t first, QuickFound* found, format::QuickSlot& slot) {
  constexpr uint64_t kAtOnce = 1024;  // IOV_MAX
  uint8_t* const ring = format::quick_ring(&head);
  auto* const out = reinterpret_cast<Run*>(ring + first * kPageSize);
  auto* const from = reinterpret_cast<iovec*>(head.scratch);
  static_assert(sizeof(head.scratch) >= kAtOnce * sizeof(iovec));
  const long e = keep_changed(head, found);
  if (e != 0) return e;
  uint64_t page = first + quick_table_pages(found->runs);
  for (uint64_t i = 0; i < found->runs;) {
    uint64_t n = 0, bytes = 0;
    const uint64_t begin = page;
    for (; i < found->runs && n < kAtOnce; i++) {
      const Run& r = head.runs[i];
      if (r.staging_page == format::kPagesGone) {
        out[i] = r;
        continue;
      }
      out[i] = {r.addr, r.pages, page};
      from[n++] = {reinterpret_cast<void*>(source_of(head, r)), r.pages * kPageSize};
      page += r.pages;
      bytes += r.pages * kPageSize;
    }
    if (head.plan.plain != 0) {
      uint8_t* at = ring + begin * kPageSize;
      for (uint64_t k = 0; k < n; at += from[k++].iov_len) {
        __builtin_memcpy(at, from[k].iov_base, from[k].iov_len);
      }
      continue;
    }
    iovec to{ring + begin * kPageSize, bytes};
    const long done = n == 0 ? 0 : sys(__NR_process_vm_readv, sys_getpid(), &to, 1, from, n, 0);
    if (done < 0) return done;
    if (static_cast<uint64_t>(done) != bytes) return -EFAULT;
  }
  slot.ring_first = first;
  slot.ring_pages = page - first;
  slot.run_count = found->runs;
  return 0;
}

long list_private(QuickHead& head, int pagemap) {
  head.plan.private_count = 0;
  return format::each_private(format::file_ranges(head), format::kEverywhere, head.scratch, pagemap,
                              [&](const QuickRange& r) -> long {
                                if (head.plan.private_count == format::kQuickMostRuns)
                                  return -E2BIG;
                                head.private_runs[head.plan.private_count++] = r;
                                return 0;
                              });
}

}  // namespace cr::capture
