// SPDX-License-Identifier: MIT
// pagemap_stopped.cc - see pagemap.h. Invariant: as there. Context: S.
#include "capture/pagemap.h"

#include <errno.h>

#include "capture/pagemap_abi.h"
#include "rawsys/rawsys.h"

namespace cr::capture {
namespace {

long scan(int pagemap, bool shared, uint64_t start, uint64_t end, PageRange* out, uint64_t cap,
          uint64_t* ret_next) {
  constexpr uint64_t kBatch = 256;
  PageRegion vec[kBatch];
  PmScanArg arg{};
  arg.size = sizeof(arg);
  arg.start = start;
  arg.end = end;
  arg.vec = reinterpret_cast<uint64_t>(vec);
  arg.vec_len = cap < kBatch ? cap : kBatch;
  arg.category_anyof_mask = kIsPresent | kIsSwapped;
  arg.return_mask = kIsPresent | kIsSwapped;
  if (!shared) {
    arg.category_mask = kIsFile | kIsPfnZero;
    arg.category_inverted = kIsFile | kIsPfnZero;
  }
  long n = rawsys::sys(__NR_ioctl, pagemap, kPagemapScan, &arg);
  if (n < 0) return n;
  // Regions of different categories are listed apart; to us neighbours are one run.
  uint64_t used = 0;
  for (long i = 0; i < n; i++) {
    if (used > 0 && out[used - 1].end == vec[i].start) {
      out[used - 1].end = vec[i].end;
    } else {
      out[used++] = {vec[i].start, vec[i].end};
    }
  }
  *ret_next = arg.walk_end;
  return static_cast<long>(used);
}

long read_entries(int pagemap, bool shared, uint64_t start, uint64_t end, PageRange* out,
                  uint64_t cap, uint64_t* ret_next) {
  constexpr uint64_t kPresent = 1ull << 63, kSwapped = 1ull << 62, kFileOrShared = 1ull << 61;
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
      if ((e & (kPresent | kSwapped)) == 0) continue;
      if (!shared && (e & kFileOrShared) != 0) continue;
      if (used > 0 && out[used - 1].end == at) {
        out[used - 1].end += kPageSize;
      } else if (used < cap) {
        out[used++] = {at, at + kPageSize};
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
  return scan(pagemap, false, 0x10000, 0x10000, &one, 1, &next) >= 0;
}

long find_pages(int pagemap, bool use_scan, bool shared, uint64_t start, uint64_t end,
                PageRange* out, uint64_t cap, uint64_t* ret_next) {
  return use_scan ? scan(pagemap, shared, start, end, out, cap, ret_next)
                  : read_entries(pagemap, shared, start, end, out, cap, ret_next);
}

}  // namespace cr::capture
