// SPDX-License-Identifier: MIT
// pagemap_stopped.cc - see pagemap.h. Invariant: as there. Context: S.
#include "capture/pagemap.h"

#include <errno.h>
#include <fcntl.h>

#include "rawsys/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::capture {
namespace {

using namespace rawsys;  // the kernel's names

constexpr uint64_t kBatch = 256;

PmScanArg scan_for(Pages which, uint64_t start, uint64_t end) {
  PmScanArg arg{};
  arg.size = sizeof(arg);
  arg.start = start;
  arg.end = end;
  arg.category_anyof_mask = kIsPresent | kIsSwapped;
  arg.return_mask = kIsPresent | kIsSwapped;
  if (which != Pages::kPresent) {
    arg.category_mask = kIsPfnZero | (which == Pages::kPrivate ? kIsFile : 0);
    arg.category_inverted = arg.category_mask;
  }
  return arg;
}

PageState state_of(const PmScanArg& arg, uint64_t categories) {
  if ((arg.return_mask & kIsWritten) == 0) return PageState::kWritten;
  const bool data = (categories & (kIsPresent | kIsSwapped)) != 0 && (categories & kIsPfnZero) == 0;
  if (!data) return PageState::kNothing;
  // In a mapping of a file a page that was dropped (MADV_DONTNEED) leaves a mark behind that looks
  // like a swapped page that was not written.
  const bool file = (arg.category_mask & kIsFile) != 0;
  if (file && (categories & kIsPresent) == 0) return PageState::kWritten;
  return (categories & kIsWritten) != 0 ? PageState::kWritten : PageState::kSame;
}

// Neighbours of the same state are one run.
long run_scan(int pagemap, PmScanArg& arg, PageRange* out, uint64_t cap, uint64_t* ret_next) {
  PageRegion vec[kBatch];
  arg.vec = reinterpret_cast<uint64_t>(vec);
  arg.vec_len = cap < kBatch ? cap : kBatch;
  const long n = rawsys::sys(__NR_ioctl, pagemap, kPagemapScan, &arg);
  if (n < 0) return n;
  uint64_t used = 0;
  for (long i = 0; i < n; i++) {
    const PageState state = state_of(arg, vec[i].categories);
    if (used > 0 && out[used - 1].end == vec[i].start && out[used - 1].state == state) {
      out[used - 1].end = vec[i].end;
    } else {
      out[used++] = {vec[i].start, vec[i].end, state};
    }
  }
  *ret_next = arg.walk_end;
  return static_cast<long>(used);
}

long scan(int pagemap, Pages which, uint64_t start, uint64_t end, PageRange* out, uint64_t cap,
          uint64_t* ret_next) {
  PmScanArg arg = scan_for(which, start, end);
  return run_scan(pagemap, arg, out, cap, ret_next);
}

constexpr uint64_t kEntryPresent = 1ull << 63, kEntrySwapped = 1ull << 62,
                   kEntryFileOrShared = 1ull << 61, kEntryExclusive = 1ull << 56,
                   kEntrySoftDirty = 1ull << 55;

// The page of zeros that a read of untouched memory maps has no mark, and is not what the program
// had there before: pages that are not this process's alone are never the same.
PageState state_by_mark(uint64_t entry) {
  const bool own = (entry & (kEntrySwapped | kEntryExclusive)) != 0;
  return own && (entry & kEntrySoftDirty) == 0 ? PageState::kSame : PageState::kWritten;
}

enum class Marks { kIgnored, kRead };

long read_entries(int pagemap, bool shared, Marks marks, uint64_t start, uint64_t end,
                  PageRange* out, uint64_t cap, uint64_t* ret_next) {
  uint64_t entries[1024];
  uint64_t used = 0, at = start;
  while (at < end && used < cap) {
    uint64_t pages = (end - at) / kPageSize;
    if (pages > 1024) pages = 1024;
    long r = rawsys::sys_pread(pagemap, entries, pages * 8, at / kPageSize * 8);
    if (r < 0) return r;
    if (r == 0) return -EIO;
    pages = static_cast<uint64_t>(r) / 8;
    for (uint64_t i = 0; i < pages; i++, at += kPageSize) {
      const uint64_t e = entries[i];
      if ((e & (kEntryPresent | kEntrySwapped)) == 0) continue;
      if (!shared && (e & kEntryFileOrShared) != 0) continue;
      const PageState state = marks == Marks::kRead ? state_by_mark(e) : PageState::kWritten;
      if (used > 0 && out[used - 1].end == at && out[used - 1].state == state) {
        out[used - 1].end += kPageSize;
      } else if (used < cap) {
        out[used++] = {at, at + kPageSize, state};
      } else {
        *ret_next = at;
        return static_cast<long>(used);
      }
    }
  }
  *ret_next = at;
  return static_cast<long>(used);
}

}  // namespace

bool has_pagemap_scan(int pagemap) {
  PageRange one;
  uint64_t next = 0;
  return scan(pagemap, Pages::kPresent, 0x10000, 0x10000, &one, 1, &next) >= 0;
}

long take_changes(int pagemap, Pages which, uint64_t start, uint64_t end, uint64_t max_pages,
                  PageRange* out, uint64_t cap, uint64_t* ret_next) {
  PmScanArg arg = scan_for(which, start, end);
  arg.flags = kScanWriteProtect | kScanCheckAsync;
  arg.return_mask |= kIsWritten;
  arg.max_pages = max_pages;
  return run_scan(pagemap, arg, out, cap, ret_next);
}

long find_differences(int pagemap, uint64_t start, uint64_t end, PageRange* out, uint64_t cap,
                      uint64_t* ret_next) {
  PmScanArg arg = scan_of_differences(start, end);
  return run_scan(pagemap, arg, out, cap, ret_next);
}

PageState state_of_difference(uint64_t categories) {
  return state_of(scan_of_differences(0, 0), categories);
}

long take_written(int pagemap, Pages which, uint64_t start, uint64_t end, uint64_t max_pages,
                  PageRange* out, uint64_t cap, uint64_t* ret_next) {
  PmScanArg arg = scan_for(which, start, end);
  arg.flags = kScanWriteProtect | kScanCheckAsync;
  arg.category_mask |= kIsWritten;
  arg.max_pages = max_pages;
  return run_scan(pagemap, arg, out, cap, ret_next);
}

bool is_tracked(int pagemap, uint64_t addr) {
  PmScanArg arg = scan_for(Pages::kPresent, addr, addr + kPageSize);
  arg.flags = kScanCheckAsync;
  PageRange one;
  uint64_t next = 0;
  return run_scan(pagemap, arg, &one, 1, &next) >= 0;
}

long open_tracker() {
  constexpr unsigned long kUserModeOnly = 1;
  const long fd = rawsys::sys(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly);
  if (fd < 0) return fd;
  UffdioApi api{kUffdApi, kUffdFeatureWpAsync, 0};
  const long r = rawsys::sys(__NR_ioctl, fd, kUffdioApi, &api);
  if (r == 0) return fd;
  rawsys::sys_close(static_cast<int>(fd));
  return r;
}

long track_writes(int tracker, uint64_t map_start, uint64_t map_end) {
  UffdioRegister arg{map_start, map_end - map_start, kUffdRegisterWp, 0};
  return rawsys::sys(__NR_ioctl, tracker, kUffdioRegister, &arg);
}

long count_as_written(int tracker, uint64_t start, uint64_t end) {
  UffdioWriteprotect none{start, end - start, 0};
  return rawsys::sys(__NR_ioctl, tracker, kUffdioWriteprotect, &none);
}

long find_pages(int pagemap, bool use_scan, Pages which, uint64_t start, uint64_t end,
                PageRange* out, uint64_t cap, uint64_t* ret_next) {
  return use_scan ? scan(pagemap, which, start, end, out, cap, ret_next)
                  : read_entries(pagemap, which == Pages::kPresent, Marks::kIgnored, start, end,
                                 out, cap, ret_next);
}

long find_resident(uint64_t start, uint64_t end, PageRange* out, uint64_t cap, uint64_t* ret_next) {
  uint8_t resident[4096];
  uint64_t used = 0, at = start;
  while (at < end && used < cap) {
    uint64_t pages = (end - at) / kPageSize;
    if (pages > sizeof(resident)) pages = sizeof(resident);
    const long r = rawsys::sys(__NR_mincore, at, pages * kPageSize, resident);
    if (r < 0) return r;
    for (uint64_t i = 0; i < pages; i++, at += kPageSize) {
      if ((resident[i] & 1) == 0) continue;
      if (used > 0 && out[used - 1].end == at) {
        out[used - 1].end += kPageSize;
      } else if (used < cap) {
        out[used++] = {at, at + kPageSize, PageState::kWritten};
      } else {
        *ret_next = at;
        return static_cast<long>(used);
      }
    }
  }
  *ret_next = at;
  return static_cast<long>(used);
}

long find_marked(int pagemap, bool use_scan, uint64_t start, uint64_t end, PageRange* out,
                 uint64_t cap, uint64_t* ret_next) {
  if (use_scan) {  // only to pass over what is not there
    PageRange there;
    const long n = scan(pagemap, Pages::kAnonymous, start, end, &there, 1, ret_next);
    if (n <= 0) return n;
    start = there.start;
    end = there.end;
  }
  return read_entries(pagemap, /*shared=*/false, Marks::kRead, start, end, out, cap, ret_next);
}

}  // namespace cr::capture
