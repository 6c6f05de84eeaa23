// SPDX-License-Identifier: MIT
// copy_stopped.cc - copies pages to staging.
// Invariant: as capture.h; memory is read only by the kernel (pwrite from the page, or a read
// through /proc/self/mem where the program itself may not read), so a page that vanished is an
// error code and never a fault.
// Context: S; copy_early() N.
#include <errno.h>

#include "capture/capture.h"
#include "capture/pagemap.h"
#include "format/checksum.h"
#include "format/scan_help.h"
#include "rawsys/rawsys.h"

namespace cr::capture {
namespace {

constexpr uint64_t kBounceBytes = 256 * 1024;
constexpr uint64_t kBatch = 64;
// One run of what is copied last of all, and from how much on another processor is to help.
constexpr uint64_t kPiecePages = (1 << 20) / kPageSize, kWorthSharingPages = 128;
// The agent is to help with looking through so much, in pieces of at least so much.
constexpr uint64_t kWorthHelpBytes = 64ull << 20, kLeastPieceBytes = 16ull << 20;
alignas(kPageSize) constinit unsigned char g_bounce[kBounceBytes] = {};

enum class When { kStopped, kRunning };

class Copier {
 public:
  Copier(format::ChannelHeader& ch, const Files& files, Memory& memory, When when)
      : ch_(ch), files_(files), memory_(memory), when_(when), used_pages_(ch.staging_first) {
    runs_ = reinterpret_cast<format::Run*>(reinterpret_cast<uint8_t*>(&ch) + ch.runs_off);
    ranges_ = reinterpret_cast<format::Range*>(reinterpret_cast<uint8_t*>(&ch) + ch.ranges_off);
    tracking_ = ch.tracking == format::kTrackerUserfaultfd && files.tracker >= 0;
    hashing_ = ch.tracking == format::kTrackerHash && memory.hashes.ready();
    marks_ = ch.tracking == format::kTrackerSoftDirty;
    if (ch.scan_off != 0 && when == When::kStopped) {
      help_ = reinterpret_cast<format::ScanHelp*>(reinterpret_cast<uint8_t*>(&ch) + ch.scan_off);
    }
  }

  long work() {
    ch_.run_count = 0;
    ch_.more = 0;
    long e = work_through();
    if (e == 0) e = copy_rest();
    ch_.staging_used = used_pages_;
    memory_.marked = memory_.marked || tracking_;
    return e;
  }

  void track_all() {
    ch_.untrackable_bytes = 0;
    uint64_t last = 0;
    for (uint64_t i = 0; i < ch_.range_count; i++) {
      const format::Range& r = ranges_[i];
      if (!is_trackable(r) || r.map_start == last) continue;
      last = r.map_start;
      if (is_tracked(files_.pagemap, r.map_start)) continue;
      spoil(r.map_start, r.map_end);  // as in take_all_of
      if (track_writes(files_.tracker, r.map_start, r.map_end) != 0) {
        ch_.untrackable_bytes += r.map_end - r.map_start;
      }
    }
  }

 private:
  long work_through() {
    for (; ch_.cursor_range < ch_.range_count; ch_.cursor_range++, ch_.cursor_addr = 0) {
      format::Range& r = ranges_[ch_.cursor_range];
      if (ch_.cursor_addr < r.start) ch_.cursor_addr = r.start;
      long e = 0;
      if (when_ == When::kRunning) {
        e = take_early(r);
      } else {
        e = r.mode == format::kRangeEmbed ? take_embedded(r) : take_found(r, r.end);
      }
      if (e != 0) return e;
      if (full_) {
        ch_.more = 1;
        break;
      }
    }
    return 0;
  }

  static bool is_trackable(const format::Range& r) {
    return r.mode == format::kRangeAnon || r.mode == format::kRangeFile;
  }
  static Pages kind_of(const format::Range& r) {
    return r.mode == format::kRangeAnon  ? Pages::kAnonymous
           : r.mode == format::kRangeAll ? Pages::kPresent
                                         : Pages::kPrivate;
  }

  // Pages that hold data. Those of shared memory may be in nobody's page tables: then pagemap does
  // not know them.
  long find(const format::Range& r, uint64_t from, uint64_t end, PageRange* out,
            uint64_t* ret_next) {
    if (r.mode != format::kRangeAll) {
      return find_pages(files_.pagemap, ch_.use_pagemap_scan != 0, kind_of(r), from, end, out,
                        kBatch, ret_next);
    }
    if (r.limit == 0) return find_resident(from, end, out, kBatch, ret_next);
    *out = {from, end, PageState::kWritten};
    *ret_next = end;
    return 1;
  }

  // Pages that pagemap reports, from the cursor to `end`.
  long take_found(const format::Range& r, uint64_t end) {
    if (hashing_ && r.mode != format::kRangeEmbed) return take_compared(r, end);
    if (marks_ && r.mode == format::kRangeAnon) {
      const long e = take_listed(r, end);
      if (e != 0 || full_) return e;  // what the list does not know any more is taken whole
    }
    bool tracked = tracking_ && is_trackable(r);
    if (tracked && r.fresh == 0 && r.mode == format::kRangeAnon) {
      const long e = take_differing(r, end);
      if (e != -EPERM) return e;
      tracked = track(r) && take_marks_off(ch_.cursor_addr, end);
    }
    if (tracked && r.fresh != 0 && !take_marks_off(ch_.cursor_addr, end)) {
      tracked = track(r) && take_marks_off(ch_.cursor_addr, end);
    }
    PageRange found[kBatch];
    while (ch_.cursor_addr < end) {
      uint64_t next = 0;
      long n;
      if (tracked) {
        // Never more than there is room for: whatever is found here counts as not written any more.
        uint64_t room = 0;
        const uint64_t runs = room_for(&room);
        if (full_) return 0;
        n = take_changes(files_.pagemap, kind_of(r), ch_.cursor_addr, end, room, found,
                         runs < kBatch ? runs : kBatch, &next);
        if (n == -EPERM) {
          tracked = track(r) && take_marks_off(ch_.cursor_addr, end);
          continue;
        }
      } else {
        n = find(r, ch_.cursor_addr, end, found, &next);
      }
      if (n < 0) return n;
      for (long i = 0; i < n; i++) {
        long e = 0;
        if (found[i].state == PageState::kSame && r.fresh == 0) {
          say_same(found[i].start, found[i].end);
        } else {
          e = copy_run(found[i].start, found[i].end, r.readable != 0);
        }
        if (e != 0 || full_) return e;
      }
      if (next <= ch_.cursor_addr && n == 0) return -EIO;
      if (next > ch_.cursor_addr) ch_.cursor_addr = next;
    }
    return 0;
  }

  // As take_found, of what is known but for what is found. -EPERM: not tracked, nothing was done.
  long take_differing(const format::Range& r, uint64_t end) {
    // Address space in which nothing is takes no time, and needs no help.
    constexpr uint64_t kQuickNs = 15000;
    uint64_t took_ns = 0;
    for (uint64_t span = kWorthHelpBytes; help_ != nullptr && took_ns < kQuickNs; span *= 2) {
      const uint64_t at = ch_.cursor_addr;
      if (at >= end || end - at < kWorthHelpBytes + span) break;
      const uint64_t begin_ns = rawsys::now_ns();
      const long e = take_differing_alone(r, at + span);
      if (e != 0 || full_) return e;
      took_ns = rawsys::now_ns() - begin_ns;
    }
    return took_ns < kQuickNs ? take_differing_alone(r, end) : take_differing_together(r, end);
  }

  // The agent, which has another processor, is asked to look from the other end. It cannot be late
  // for more than a piece.
  long take_differing_together(const format::Range& r, uint64_t end) {
    const uint64_t bytes = end - ch_.cursor_addr;
    const uint64_t even = page_ceil((bytes - 1) / format::kScanPieces + 1);
    help_->start = ch_.cursor_addr;
    help_->end = end;
    help_->piece_bytes = even < kLeastPieceBytes ? kLeastPieceBytes : even;
    const uint64_t count = (bytes - 1) / help_->piece_bytes + 1;
    const uint64_t last_job = __atomic_load_n(&help_->open, __ATOMIC_RELAXED) >> 32;
    const uint64_t job = last_job == 0xffffffff ? 1 : last_job + 1;
    __atomic_store_n(&help_->open, format::open_word(job, 0, count), __ATOMIC_RELEASE);
    rawsys::sys_futex(&ch_.done_seq, FUTEX_WAKE, 0x7fffffff);  // it may wait for our end
    long e = 0;
    uint64_t next = 0, same_job = 0;
    while (e == 0 && !full_) {
      const uint64_t i = format::claim_piece(*help_, /*at_front=*/true, &same_job);
      if (i == format::kNoPiece) break;
      e = take_differing_alone(r, help_->piece_end(i));
      next = i + 1;
    }
    __atomic_store_n(&help_->open, format::open_word(job, 0, 0), __ATOMIC_RELEASE);
    for (; next < count && e == 0 && !full_; next++) e = take_helped(r, next, job);
    return e;
  }

  // A piece that the agent has claimed. What it does not tell in time, we find out.
  long take_helped(const format::Range& r, uint64_t i, uint64_t job) {
    const format::ScanPiece& p = help_->pieces[i];
    const uint64_t end = help_->piece_end(i);
    const auto is_done = [&] { return __atomic_load_n(&p.job, __ATOMIC_ACQUIRE) == job; };
    for (uint64_t rounds = 0; !is_done() && rounds < kPatienceRounds; rounds++) rawsys::cpu_relax();
    if (is_done()) {
      for (uint64_t k = p.first; k < p.first + p.count; k++) {
        const rawsys::PageRegion& region = help_->regions[k];
        const long e =
            take_difference(r, {region.start, region.end, state_of_difference(region.categories)});
        if (e != 0 || full_) return e;
      }
      say_same(ch_.cursor_addr, p.next);
      if (full_) return 0;
    }
    return take_differing_alone(r, end);
  }

  // Of known memory, the next that differs: what lies before it does not.
  long take_difference(const format::Range& r, const PageRange& f) {
    const uint64_t same_end = f.state == PageState::kSame ? f.end : f.start;
    say_same(ch_.cursor_addr, same_end);
    if (full_) return 0;
    ch_.cursor_addr = f.end;
    if (f.state != PageState::kWritten) return 0;
    return ch_.protect != 0 ? protect_and_copy(r, f.start, f.end)
                            : copy_run(f.start, f.end, r.readable != 0);
  }

  long take_differing_alone(const format::Range& r, uint64_t end) {
    PageRange found[kBatch];
    while (ch_.cursor_addr < end) {
      const uint64_t from = ch_.cursor_addr;
      uint64_t next = 0;
      const long n = find_differences(files_.pagemap, from, end, found, kBatch, &next);
      if (n < 0) return n;
      for (long i = 0; i < n; i++) {
        const long e = take_difference(r, found[i]);
        if (e != 0 || full_) return e;
      }
      if (next <= from && n == 0) return -EIO;
      say_same(ch_.cursor_addr, next);
      if (full_) return 0;
    }
    return 0;
  }

  // What does not fit into staging must not count as not written.
  long protect_and_copy(const format::Range& r, uint64_t from, uint64_t to) {
    uint64_t room = 0, next = 0;
    (void)room_for(&room);
    const uint64_t end = (to - from) / kPageSize > room ? from + room * kPageSize : to;
    ch_.cursor_addr = from;
    while (!full_ && ch_.cursor_addr < end) {
      PageRange one;
      const long n =
          take_written(files_.pagemap, kind_of(r), ch_.cursor_addr, end, room, &one, 1, &next);
      if (n < 0) return n;
      const uint64_t at = ch_.cursor_addr;
      const long e = copy_run(at, next, r.readable != 0);
      if (e != 0) return e;
      if (next <= at) return -EIO;
    }
    full_ = full_ || end < to;
    return 0;
  }

  // What the soft-dirty marks said. Ends before `end` where the list does.
  long take_listed(const format::Range& r, uint64_t end) {
    const uint64_t known_end = memory_.soft_dirty.known_end();
    if (when_ == When::kRunning && known_end < end) {
      spoil(ch_.cursor_addr > known_end ? ch_.cursor_addr : known_end, end);
    }
    if (known_end < end) end = known_end;
    PageRange found[kBatch];
    while (ch_.cursor_addr < end) {
      uint64_t next = 0;
      const uint64_t n = memory_.soft_dirty.listed(ch_.cursor_addr, end, found, kBatch, &next);
      for (uint64_t i = 0; i < n; i++) {
        long e = 0;
        if (found[i].state == PageState::kWritten || r.fresh != 0) {
          e = copy_run(found[i].start, found[i].end, r.readable != 0);
          if (e != 0 && when_ == When::kRunning) {
            spoil(found[i].start, found[i].end);
            e = 0;
          }
        } else if (when_ == When::kStopped) {
          say_same(found[i].start, found[i].end);
        }
        if (e != 0 || full_) return e;
      }
      ch_.cursor_addr = next;
    }
    return 0;
  }

  // Every page that is there, by its hash.
  long take_compared(const format::Range& r, uint64_t end) {
    const bool running = when_ == When::kRunning;
    PageRange found[kBatch];
    while (ch_.cursor_addr < end) {
      const uint64_t from = ch_.cursor_addr;
      uint64_t next = 0;
      const long n = find(r, from, end, found, &next);
      if (n < 0) return running ? 0 : n;
      for (long i = 0; i < n; i++) {
        const long e = compare(r, found[i].start, found[i].end);
        if (e != 0 || full_) return e;
      }
      if (next <= from && n == 0) return running ? 0 : -EIO;
      if (next > ch_.cursor_addr) ch_.cursor_addr = next;
    }
    return 0;
  }

  // Moves the cursor behind what was dealt with.
  long compare(const format::Range& r, uint64_t from, uint64_t to) {
    while (from < to) {
      const uint64_t left = to - from;
      const uint64_t bytes = left < PageHashes::kWindowBytes ? left : PageHashes::kWindowBytes;
      long e = look_at(from, bytes, r.readable != 0);
      if (e == 0) {
        e = compare_window(r, from, bytes);
        if (e != 0 || full_) return e;
      } else if (when_ == When::kStopped) {
        return e;  // else it is for the stop to look at
      }
      from += bytes;
      ch_.cursor_addr = from;
    }
    return 0;
  }

  // Pages to the window, so that what is hashed is what is copied, whoever writes to them.
  long look_at(uint64_t from, uint64_t bytes, bool readable) {
    if (readable) {
      const long e =
          rawsys::write_all_at(memory_.hashes.window_fd(), reinterpret_cast<void*>(from), bytes, 0);
      if (e != -EFAULT) return e;
    }
    return rawsys::read_all_at(files_.mem, memory_.hashes.window(), bytes, from);
  }

  long compare_window(const format::Range& r, uint64_t from, uint64_t bytes) {
    constexpr uint64_t kMost = PageHashes::kWindowBytes / kPageSize;
    const uint64_t pages = bytes / kPageSize;
    // What the last checkpoint does not have can only be the same as an early copy.
    const uint64_t least = r.fresh != 0 ? ch_.stamp : ch_.stamp - 1;
    uint64_t hash[kMost];
    bool same[kMost];
    for (uint64_t i = 0; i < pages; i++) {
      hash[i] = format::checksum(memory_.hashes.window() + i * kPageSize, kPageSize);
      same[i] = memory_.hashes.is_same(from + i * kPageSize, hash[i], least) &&
                (r.mode == format::kRangeAnon || hash[i] != zero_hash());
    }
    for (uint64_t i = 0; i < pages && !full_;) {
      uint64_t n = 1;
      while (i + n < pages && same[i + n] == same[i]) n++;
      const uint64_t addr = from + i * kPageSize;
      if (!same[i]) {
        const long e = stage(memory_.hashes.window() + i * kPageSize, addr, &n);
        if (e != 0) return e;
      } else if (when_ == When::kStopped) {
        say_more_same(addr, addr + n * kPageSize);
        if (full_) n = 0;
      }
      if (!same[i] || when_ == When::kStopped) note(addr, hash + i, n);
      i += n;
    }
    return 0;
  }

  void note(uint64_t addr, const uint64_t* hash, uint64_t pages) {
    const uint64_t stamp = when_ == When::kStopped ? ch_.stamp + 1 : ch_.stamp;
    for (uint64_t i = 0; i < pages; i++) memory_.hashes.note(addr + i * kPageSize, hash[i], stamp);
  }

  // A page of zeros in a file's mapping is never the same: where the last checkpoint had no file
  // mapped, it has left out such a page.
  uint64_t zero_hash() {
    static constexpr uint8_t kZeros[kPageSize] = {};
    if (zero_hash_ == 0) zero_hash_ = format::checksum(kZeros, kPageSize);
    return zero_hash_;
  }

  // As say_same, in one run with what was said last.
  void say_more_same(uint64_t from, uint64_t to) {
    if (ch_.run_count > 0) {
      format::Run& last = runs_[ch_.run_count - 1];
      if (last.staging_page == format::kPagesSame && last.addr + last.pages * kPageSize == from) {
        last.pages += (to - from) / kPageSize;
        ch_.cursor_addr = to;
        return;
      }
    }
    say_same(from, to);
  }

  // As copy_run, of pages in the window. *pages becomes the number of those for which there was
  // room.
  long stage(const uint8_t* data, uint64_t addr, uint64_t* pages) {
    const uint64_t room = ch_.staging_pages - used_pages_;
    format::Run* last = ch_.run_count > 0 ? &runs_[ch_.run_count - 1] : nullptr;
    const bool goes_on = last != nullptr && last->staging_page != format::kPagesSame &&
                         last->addr + last->pages * kPageSize == addr &&
                         last->staging_page + last->pages == used_pages_;
    if (room == 0 || (!goes_on && ch_.run_count == ch_.runs_cap)) {
      *pages = 0;
      full_ = true;
    } else if (*pages > room) {
      *pages = room;
      full_ = true;
    }
    ch_.cursor_addr = addr + *pages * kPageSize;
    if (*pages == 0) return 0;
    const long e =
        rawsys::write_all_at(files_.staging, data, *pages * kPageSize, used_pages_ * kPageSize);
    if (e != 0 && when_ == When::kRunning) {  // the stop has memory that was set aside
      *pages = 0;
      full_ = true;
      ch_.cursor_addr = addr;
      return 0;
    }
    if (e != 0) return e;
    if (goes_on) {
      last->pages += *pages;
    } else {
      runs_[ch_.run_count++] = {addr, *pages, used_pages_};
    }
    used_pages_ += *pages;
    return 0;
  }

  // Pages of staging (*ret_pages) and runs. Sets full_ if there is none of either.
  uint64_t room_for(uint64_t* ret_pages) {
    *ret_pages = ch_.staging_pages - used_pages_;
    const uint64_t runs = ch_.runs_cap - ch_.run_count;
    full_ = *ret_pages == 0 || runs == 0;
    return runs;
  }

  // False: the mapping is not tracked. In pieces, because the program's own mmap waits for each;
  // and where there can be no marks the kernel need not look for them.
  bool take_marks_off(uint64_t from, uint64_t to) {
    constexpr uint64_t kPieceBytes = 32ull << 20;
    if (!memory_.marked) return true;
    for (uint64_t at = from; at < to; at += kPieceBytes) {
      const uint64_t end = to - at < kPieceBytes ? to : at + kPieceBytes;
      if (count_as_written(files_.tracker, at, end) != 0) return false;
    }
    return true;
  }

  bool track(const format::Range& r) {
    take_all_of(r.map_start);
    return track_writes(files_.tracker, r.map_start, r.map_end) == 0;
  }

  // While the program runs: mappings may change under us.
  long take_early(format::Range& r) {
    if (r.mode == format::kRangeEmbed) {
      if (r.fresh == 0 || ch_.cursor_addr >= r.limit) return 0;
      memory_.hashes.forget(ch_.cursor_addr, r.limit);
      const long e = copy_file(r);
      if (full_) return e;
      if (e != 0) r.has_private = 1;  // that is, not to be relied on
      return 0;
    }
    if (!is_trackable(r)) return 0;
    if (hashing_) return take_compared(r, r.end);
    if (marks_) return r.mode == format::kRangeAnon ? take_listed(r, r.end) : 0;
    if (!tracking_) return 0;
    // Fails where a mapping is not tracked, as the scan below will.
    if (r.fresh != 0) (void)take_marks_off(ch_.cursor_addr, r.end);
    PageRange found[kBatch];
    while (ch_.cursor_addr < r.end) {
      uint64_t room = 0, next = 0;
      const uint64_t runs = room_for(&room);
      if (full_) return 0;
      const uint64_t from = ch_.cursor_addr;
      const uint64_t end = r.end - from > span_ ? from + span_ : r.end;
      const uint64_t cap = runs < kBatch ? runs : kBatch;
      const uint64_t begin_ns = rawsys::now_ns();
      const long n =
          r.fresh != 0
              ? take_changes(files_.pagemap, kind_of(r), from, end, room, found, cap, &next)
              : take_written(files_.pagemap, kind_of(r), from, end, room, found, cap, &next);
      choose_span(rawsys::now_ns() - begin_ns);
      if (n < 0) {
        // Part of it may have been looked at, and counts as not written.
        spoil(from, r.end);
        if (n == -EPERM) ch_.untracked_bytes += present(r, from);
        return 0;
      }
      for (long i = 0; i < n; i++) {
        if (copy_run(found[i].start, found[i].end, r.readable != 0) != 0) {
          spoil(found[i].start, found[i].end);
        }
      }
      if (next <= from && n == 0) {
        spoil(from, r.end);
        return 0;
      }
      if (next > from) ch_.cursor_addr = next;
    }
    return 0;
  }

  // How much one early scan goes through: the kernel does not give the processor away in one. What
  // is not there costs little, and may be terabytes.
  void choose_span(uint64_t took_ns) {
    constexpr uint64_t kQuickNs = 25'000;
    span_ = took_ns > kQuickNs ? kSpanBytes : span_ < (1ull << 46) ? 2 * span_ : span_;
  }

  uint64_t present(const format::Range& r, uint64_t from) {
    PageRange found[kBatch];
    uint64_t bytes = 0;
    while (from < r.end) {
      uint64_t next = 0;
      const long n = find_pages(files_.pagemap, ch_.use_pagemap_scan != 0, kind_of(r), from, r.end,
                                found, kBatch, &next);
      for (long i = 0; i < n; i++) bytes += found[i].end - found[i].start;
      if (n < 0 || next <= from) break;
      from = next;
    }
    return bytes;
  }

  void spoil(uint64_t from, uint64_t to) {
    format::Spoiled& s = ch_.spoiled;
    constexpr uint64_t kMost = sizeof(s.ranges) / sizeof(s.ranges[0]);
    if (s.count < kMost) s.ranges[s.count] = {from, to};
    if (s.count <= kMost) s.count++;
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
      const long e = r.fresh != 0 ? copy_file(r) : take_private(r);
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
        say_same(ch_.cursor_addr, found[i].start);
        const long e = full_ ? 0 : copy_run(found[i].start, found[i].end, false);
        if (e != 0 || full_) return e;
      }
      if (next <= ch_.cursor_addr && n == 0) return -EIO;
      say_same(ch_.cursor_addr, next);
      if (full_) return 0;
    }
    return 0;
  }

  // Moves the cursor behind what was said.
  void say_same(uint64_t from, uint64_t to) {
    if (from >= to) return;
    if (ch_.run_count == ch_.runs_cap) {
      ch_.cursor_addr = from;
      full_ = true;
      return;
    }
    runs_[ch_.run_count++] = {from, (to - from) / kPageSize, format::kPagesSame};
    ch_.cursor_addr = to;
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
    if (when_ == When::kStopped && readable) return put_off(from, pages);
    const long e = transfer(from, pages * kPageSize, used_pages_, readable);
    if (e != 0) return e;
    runs_[ch_.run_count++] = {from, pages, used_pages_};
    used_pages_ += pages;
    ch_.cursor_addr = from + pages * kPageSize;
    return 0;
  }

  // They get their place, and are copied when all is found: nobody writes to them meanwhile.
  long put_off(uint64_t from, uint64_t pages) {
    while (pages > 0 && ch_.run_count < ch_.runs_cap) {
      const uint64_t n = pages < kPiecePages ? pages : kPiecePages;
      runs_[ch_.run_count++] = {from, n | format::kRunToCopy, used_pages_};
      used_pages_ += n;
      to_copy_ += n;
      from += n * kPageSize;
      pages -= n;
      ch_.cursor_addr = from;
    }
    full_ = full_ || pages > 0;
    return 0;
  }

  // What was put off. If it is much the agent, which has another processor, is asked to help; what
  // it claims and does not do, we do. It cannot be late: it does nothing else before its part ends.
  long copy_rest() {
    if (to_copy_ == 0) return 0;
    const uint64_t count = ch_.run_count;
    __atomic_store_n(&ch_.copy_next, uint64_t{0}, __ATOMIC_RELAXED);
    if (to_copy_ >= kWorthSharingPages) {
      __atomic_store_n(&ch_.copy_count, count, __ATOMIC_RELEASE);
      rawsys::sys_futex(&ch_.done_seq, FUTEX_WAKE, 0x7fffffff);  // it may wait for our end
    }
    long e = 0;
    for (uint64_t i = 0; e == 0;) {
      i = __atomic_fetch_add(&ch_.copy_next, format::kRunsAtOnce, __ATOMIC_RELAXED);
      if (i >= count) break;
      for (uint64_t j = i; j < i + format::kRunsAtOnce && j < count && e == 0; j++) {
        e = copy_one(runs_[j]);
      }
    }
    __atomic_store_n(&ch_.copy_count, uint64_t{0}, __ATOMIC_RELEASE);
    uint64_t rounds = 0;
    for (uint64_t i = 0; e == 0 && i < count; i++) {
      while (is_to_copy(runs_[i]) && rounds < kPatienceRounds) {
        rounds++;
        rawsys::cpu_relax();
      }
      e = copy_one(runs_[i]);
    }
    to_copy_ = 0;
    return e;
  }

  static bool is_to_copy(const format::Run& r) {
    return (__atomic_load_n(&r.pages, __ATOMIC_ACQUIRE) & format::kRunToCopy) != 0;
  }

  long copy_one(format::Run& r) {
    if (!is_to_copy(r)) return 0;
    const uint64_t pages = __atomic_load_n(&r.pages, __ATOMIC_RELAXED) & ~format::kRunToCopy;
    const long e = transfer(r.addr, pages * kPageSize, r.staging_page, true);
    if (e == 0) __atomic_store_n(&r.pages, pages, __ATOMIC_RELEASE);
    return e;
  }

  long transfer(uint64_t from, uint64_t bytes, uint64_t staging_page, bool readable) {
    uint64_t to = staging_page * kPageSize;
    while (readable && bytes > 0) {
      const uint64_t n = when_ == When::kStopped || bytes < kBounceBytes ? bytes : kBounceBytes;
      const long e = rawsys::write_all_at(files_.staging, reinterpret_cast<void*>(from), n, to);
      if (e == -EFAULT) break;  // a protection key, or PROT_NONE set behind our back
      if (e != 0) return e;
      from += n;
      to += n;
      bytes -= n;
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

  static constexpr uint64_t kSpanBytes = 256ull << 20;
  // Looks at whether the agent has done what it claimed: about as long as that may take.
  static constexpr uint64_t kPatienceRounds = 100000;

  format::ChannelHeader& ch_;
  const Files& files_;
  Memory& memory_;
  When when_;
  format::Run* runs_;
  format::Range* ranges_;
  format::ScanHelp* help_ = nullptr;
  uint64_t used_pages_;   // of staging
  uint64_t to_copy_ = 0;  // pages that were put off
  bool tracking_, hashing_, marks_;
  bool full_ = false;
  uint64_t zero_hash_ = 0;
  uint64_t span_ = kSpanBytes;
};

}  // namespace

long copy_pages(const Stopped&, format::ChannelHeader& channel, const Files& files,
                Memory& memory) {
  return Copier(channel, files, memory, When::kStopped).work();
}

long begin_capture(const Stopped&, format::ChannelHeader& channel, const Files& files,
                   Memory& memory) {
  if (channel.tracking != format::kTrackerSoftDirty) return 0;
  return memory.soft_dirty.take_marks(files.pagemap, channel.use_pagemap_scan != 0,
                                      files.clear_refs, channel);
}

long track_ranges(const Stopped& stopped, format::ChannelHeader& channel, const Files& files,
                  Memory& memory) {
  channel.spoiled.count = 0;
  if (channel.tracking == format::kTrackerUserfaultfd && files.tracker >= 0) {
    Copier(channel, files, memory, When::kStopped).track_all();
  }
  return begin_capture(stopped, channel, files, memory);
}

long reserve(uint64_t pages, const format::ChannelHeader& channel, Memory& memory) {
  if (channel.tracking == format::kTrackerHash) {
    memory.soft_dirty.clear();
    return memory.hashes.reserve(pages, channel.stamp - 1);
  }
  memory.hashes.clear();
  if (channel.tracking == format::kTrackerSoftDirty) return memory.soft_dirty.reserve(pages);
  memory.soft_dirty.clear();
  return 0;
}

long copy_early(format::ChannelHeader& channel, const Files& files, Memory& memory) {
  channel.spoiled.count = 0;
  channel.untracked_bytes = 0;
  return Copier(channel, files, memory, When::kRunning).work();
}

}  // namespace cr::capture
