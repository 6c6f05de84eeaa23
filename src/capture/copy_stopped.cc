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
constexpr uint64_t kBatch = 64;
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
      format::Range& r = ranges_[ch_.cursor_range];
      if (ch_.cursor_addr < r.start) ch_.cursor_addr = r.start;
      const long e = r.mode == format::kRangeEmbed ? take_embedded(r) : take_found(r, r.end);
      if (e != 0) return e;
      if (full_) {
        ch_.more = 1;
        return 0;
      }
    }
    return 0;
  }

 private:
  // Pages that pagemap reports, from the cursor to `end`.
  long take_found(const format::Range& r, uint64_t end) {
    PageRange found[kBatch];
    const Pages which = r.mode == format::kRangeAnon  ? Pages::kAnonymous
                        : r.mode == format::kRangeAll ? Pages::kPresent
                                                      : Pages::kPrivate;
    bool tracked = ch_.tracking != format::kTrackNothing && files_.tracker >= 0 &&
                   (r.mode == format::kRangeAnon || r.mode == format::kRangeFile);
    while (ch_.cursor_addr < end) {
      uint64_t next = 0;
      long n;
      if (tracked) {
        // Never more than there is room for: whatever is found here counts as not written any more.
        const uint64_t room = ch_.staging_pages - used_pages_, runs = ch_.runs_cap - ch_.run_count;
        if (room == 0 || runs == 0) {
          full_ = true;
          return 0;
        }
        n = take_changes(files_.pagemap, which, ch_.cursor_addr, end, room, found,
                         runs < kBatch ? runs : kBatch, &next);
        if (n == -EPERM) {
          tracked = track_writes(files_.tracker, r.map_start, r.map_end) == 0;
          take_all_of(r.map_start);
          continue;
        }
      } else {
        n = find_pages(files_.pagemap, ch_.use_pagemap_scan != 0, which, ch_.cursor_addr, end,
                       found, kBatch, &next);
      }
      if (n < 0) return n;
      for (long i = 0; i < n; i++) {
        const bool same =
            tracked && !found[i].written && r.fresh == 0 && ch_.tracking == format::kTrackChanges;
        const long e = same ? say_same(found[i].start, found[i].end)
                            : copy_run(found[i].start, found[i].end, r.readable != 0);
        if (e != 0 || full_) return e;
      }
      if (next <= ch_.cursor_addr && n == 0) return -EIO;
      if (next > ch_.cursor_addr) ch_.cursor_addr = next;
    }
    return 0;
  }

  // A mapping that has just been registered: before Linux 6.13 the pages of one that was moved here
  // may still be marked as not written.
  void take_all_of(uint64_t map_start) {
    for (uint64_t i = ch_.cursor_range; i < ch_.range_count; i++) {
      if (ranges_[i].map_start != map_start) return;
      ranges_[i].fresh = 1;
    }
  }

  // Every page up to the end of the mapped file; pages beyond are found as private ones.
  long take_embedded(format::Range& r) {
    if (ch_.cursor_addr < r.limit) {
      const long e =
          r.fresh != 0 || ch_.tracking != format::kTrackChanges ? copy_file(r) : take_private(r);
      if (e != 0 || full_) return e;
    }
    return take_found(r, r.end);
  }

  long copy_file(format::Range& r) {
    PageRange one;
    uint64_t next = 0;
    const long n = find_pages(files_.pagemap, ch_.use_pagemap_scan != 0, Pages::kPrivate,
                              ch_.cursor_addr, r.limit, &one, 1, &next);
    if (n < 0) return n;
    if (n > 0) r.has_private = 1;
    return copy_run(ch_.cursor_addr, r.limit, false);
  }

  // Of a file whose pages the last checkpoint has: those that are not the file's any more.
  long take_private(format::Range& r) {
    PageRange found[kBatch];
    while (ch_.cursor_addr < r.limit) {
      uint64_t next = 0;
      const long n = find_pages(files_.pagemap, ch_.use_pagemap_scan != 0, Pages::kPrivate,
                                ch_.cursor_addr, r.limit, found, kBatch, &next);
      if (n < 0) return n;
      for (long i = 0; i < n; i++) {
        r.has_private = 1;
        long e = say_same(ch_.cursor_addr, found[i].start);
        if (e == 0 && !full_) e = copy_run(found[i].start, found[i].end, false);
        if (e != 0 || full_) return e;
      }
      if (next <= ch_.cursor_addr && n == 0) return -EIO;
      const long e = say_same(ch_.cursor_addr, next);
      if (e != 0 || full_) return e;
    }
    return 0;
  }

  // Moves the cursor behind what was said.
  long say_same(uint64_t from, uint64_t to) {
    if (from >= to) return 0;
    if (ch_.run_count == ch_.runs_cap) {
      ch_.cursor_addr = from;
      full_ = true;
      return 0;
    }
    runs_[ch_.run_count++] = {from, (to - from) / kPageSize, format::kPagesSame};
    ch_.cursor_addr = to;
    return 0;
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
