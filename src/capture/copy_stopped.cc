// SPDX-License-Identifier: MIT
// copy_stopped.cc - copies pages to staging.
// Invariant: as capture.h; memory is read only by the kernel (pwrite from the page, or a read
// through /proc/self/mem where the program itself may not read), so a page that vanished is an
// error code and never a fault.
// Context: S.
#include <errno.h>

#include "capture/capture.h"
#include "capture/pagemap.h"
#include "rawsys/rawsys.h"

namespace cr::capture {
namespace {

constexpr uint64_t kBounceBytes = 256 * 1024;
alignas(kPageSize) constinit unsigned char g_bounce[kBounceBytes] = {};

class Copier {
 public:
  Copier(format::ChannelHeader& ch, const Files& files) : ch_(ch), files_(files) {
    runs_ = reinterpret_cast<format::Run*>(reinterpret_cast<uint8_t*>(&ch) + ch.runs_off);
    ranges_ = reinterpret_cast<format::Range*>(reinterpret_cast<uint8_t*>(&ch) + ch.ranges_off);
  }

  long work() {
    ch_.run_count = 0;
    ch_.more = 0;
    for (; ch_.cursor_range < ch_.range_count; ch_.cursor_range++, ch_.cursor_addr = 0) {
      const format::Range& r = ranges_[ch_.cursor_range];
      if (ch_.cursor_addr < r.start) ch_.cursor_addr = r.start;
      const long e = r.mode == format::kRangeEmbed ? copy_all(r) : copy_found(r);
      if (e != 0) return e;
      if (full_) {
        ch_.more = 1;
        return 0;
      }
    }
    return 0;
  }

 private:
  // Copies the pages that pagemap reports.
  long copy_found(const format::Range& r) {
    PageRange found[64];
    while (ch_.cursor_addr < r.end) {
      uint64_t next = 0;
      const long n =
          find_pages(files_.pagemap, ch_.use_pagemap_scan != 0, r.mode == format::kRangeAll,
                     ch_.cursor_addr, r.end, found, 64, &next);
      if (n < 0) return n;
      for (long i = 0; i < n; i++) {
        const long e = copy_run(found[i].start, found[i].end, r.readable != 0);
        if (e != 0 || full_) return e;
      }
      if (next <= ch_.cursor_addr && n == 0) return -EIO;
      if (next > ch_.cursor_addr) ch_.cursor_addr = next;
    }
    return 0;
  }

  // Copies every page up to the end of the mapped file; pages beyond are found as private ones.
  long copy_all(const format::Range& r) {
    if (ch_.cursor_addr < r.limit) {
      const long e = copy_run(ch_.cursor_addr, r.limit, false);
      if (e != 0 || full_) return e;
    }
    return copy_found(r);
  }

  // Copies [from, to) as far as there is room; moves the cursor behind what was copied.
  long copy_run(uint64_t from, uint64_t to, bool readable) {
    const uint64_t room = ch_.staging_pages - used_pages_;
    uint64_t pages = (to - from) / kPageSize;
    if (room == 0 || ch_.run_count == ch_.runs_cap) {
      ch_.cursor_addr = from;
      full_ = true;
      return 0;
    }
    if (pages > room) {
      pages = room;
      full_ = true;
    }
    const long e = transfer(from, pages * kPageSize, readable);
    if (e != 0) return e;
    runs_[ch_.run_count++] = {from, pages, used_pages_};
    used_pages_ += pages;
    ch_.cursor_addr = from + pages * kPageSize;
    return 0;
  }

  long transfer(uint64_t from, uint64_t bytes, bool readable) {
    uint64_t to = used_pages_ * kPageSize;
    if (readable) {
      const long e = rawsys::write_all_at(files_.staging, reinterpret_cast<void*>(from), bytes, to);
      if (e != -EFAULT) return e;  // a protection key, or PROT_NONE set behind our back
    }
    while (bytes > 0) {
      const uint64_t n = bytes < kBounceBytes ? bytes : kBounceBytes;
      long e = rawsys::read_all_at(files_.mem, g_bounce, n, from);
      if (e != 0) return e;
      e = rawsys::write_all_at(files_.staging, g_bounce, n, to);
      if (e != 0) return e;
      from += n;
      to += n;
      bytes -= n;
    }
    return 0;
  }

  format::ChannelHeader& ch_;
  const Files& files_;
  format::Run* runs_;
  format::Range* ranges_;
  uint64_t used_pages_ = 0;
  bool full_ = false;
};

}  // namespace

long copy_pages(const Stopped&, format::ChannelHeader& channel, const Files& files) {
  return Copier(channel, files).work();
}

}  // namespace cr::capture
