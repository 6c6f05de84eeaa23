// SPDX-License-Identifier: MIT
// back_ends_test.cc - the control thread's part of checkpoints by hashes and by soft-dirty marks,
// on real memory of this process. The kernel that marks pages is a model: its pagemap is a file,
// and what is written to clear_refs ends in another.
// Invariant under test: what a checkpoint is put together from is the memory at the moment of the
// stop; marks are read once, cleared once, and none is lost.
#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <set>
#include <vector>

#include "agent/page_tracker.h"
#include "capture/capture.h"
#include "tests/unit/nvheap/random.h"

using cr::kPageSize;
using cr::agent::AddressSet;
using cr::agent::EarlyPass;
using cr::agent::PageTracker;
using cr::format::ChannelHeader;
using cr::format::Range;
using cr::format::Run;
using cr_test::Random;

namespace {

constexpr uint64_t kPages = 600, kMappings = 4, kStagingPages = 4 * kPages;
constexpr uint64_t kRangesOff = 64 << 10, kRunsOff = 128 << 10, kChannel = 256 << 10;
using Bytes = std::vector<uint8_t>;

class Machine {
 public:
  Machine(cr::format::Tracker how, bool scan, uint64_t seed) : how_(how), random_(seed) {
    channel_memory_.resize(kChannel);
    ch().ranges_off = kRangesOff;
    ch().runs_off = kRunsOff;
    ch().tracking = how;
    ch().use_pagemap_scan = scan ? 1 : 0;
    files_.staging = memfd_create("staging", MFD_CLOEXEC);
    files_.mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    files_.clear_refs = memfd_create("clear_refs", MFD_CLOEXEC);
    files_.pagemap = by_marks() ? memfd_create("pagemap", MFD_CLOEXEC)
                                : open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    cr_assert(ftruncate(files_.staging, kStagingPages * kPageSize) == 0);
    staging_ = static_cast<uint8_t*>(
        mmap(nullptr, kStagingPages * kPageSize, PROT_READ, MAP_SHARED, files_.staging, 0));
    // Apart from everything else, so that nothing grows into it.
    memory_ = static_cast<uint8_t*>(map(nullptr, kPages + 2)) + kPageSize;
    cr_assert(mprotect(memory_ - kPageSize, kPageSize, PROT_NONE) == 0);
    cr_assert(mprotect(memory_ + kPages * kPageSize, kPageSize, PROT_NONE) == 0);
    // Every second page, with so little room that the list of marks overflows.
    tight_ = seed % 2 == 1;
    for (uint64_t p = 0; tight_ && p < kPages; p += 2) store(p);
    cr_assert(files_.mem >= 0 && files_.pagemap >= 0 && staging_ != MAP_FAILED);
  }
  ~Machine() {
    for (const int fd : {files_.staging, files_.mem, files_.clear_refs, files_.pagemap}) close(fd);
    munmap(staging_, kStagingPages * kPageSize);
    munmap(memory_ - kPageSize, (kPages + 2) * kPageSize);
    known_.hashes.clear();
    known_.soft_dirty.clear();
  }

  void run(int checkpoints) {
    for (int i = 0; i < checkpoints; i++) checkpoint();
    cr_assert(same_pages_ > 0, "nothing was ever the same");
  }

 private:
  struct Page {  // the model's
    bool there = false, zero = false, marked = false;
  };
  ChannelHeader& ch() { return *reinterpret_cast<ChannelHeader*>(channel_memory_.data()); }
  bool by_marks() const { return how_ == cr::format::kTrackerSoftDirty; }
  uint8_t* at(uint64_t page) const { return memory_ + page * kPageSize; }
  uint64_t address(uint64_t page) const { return reinterpret_cast<uint64_t>(at(page)); }

  static void* map(void* where, uint64_t pages) {
    void* r = mmap(where, pages * kPageSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | (where != nullptr ? MAP_FIXED : 0), -1, 0);
    cr_assert(r != MAP_FAILED);
    return r;
  }

  void store(uint64_t page) {
    memset(at(page), 0, kPageSize);
    at(page)[random_.below(2) * 4000] = static_cast<uint8_t>(random_.below(4));
    pages_[page] = {true, false, true};
  }

  void change() {
    for (uint64_t n = random_.below(16); n > 0; n--) {
      const uint64_t page = random_.below(kPages);
      switch (random_.below(8)) {
        case 0:
          cr_assert(madvise(at(page), kPageSize, MADV_DONTNEED) == 0);
          pages_[page] = {};
          break;
        case 1: {  // anew: a whole mapping has its mark
          const uint64_t m = page / (kPages / kMappings) * (kPages / kMappings);
          if (random_.below(4) != 0) break;
          map(at(m), kPages / kMappings);
          for (uint64_t p = m; p < m + kPages / kMappings; p++) pages_[p] = {};
          break;
        }
        case 2:
          seen_ += *static_cast<volatile uint8_t*>(at(page));
          if (!pages_[page].there) pages_[page] = {true, true, false};
          break;
        default:
          store(page);
      }
    }
  }

  void write_ranges(const std::vector<Range>& ranges) {
    memcpy(channel_memory_.data() + kRangesOff, ranges.data(), ranges.size() * sizeof(Range));
    ch().range_count = ranges.size();
    ch().cursor_range = ch().cursor_addr = 0;
    ch().runs_cap = random_.below(4) == 0 ? 8 : (kChannel - kRunsOff) / sizeof(Run);
  }

  std::vector<Range> ranges() {
    std::vector<Range> all;
    for (uint64_t m = 0; m < kMappings; m++) {
      const uint64_t first = m * kPages / kMappings;
      const uint64_t start = address(first), end = address(first + kPages / kMappings);
      const uint32_t readable = random_.below(4) == 0 ? 0 : 1;
      all.push_back({start, end, cr::format::kRangeAnon, readable, 0, start, end, 0, 0});
    }
    return all;
  }

  // What such a kernel would show.
  void write_pagemap() {
    uint64_t entries[kPages];
    for (uint64_t p = 0; p < kPages; p++) {
      const Page& page = pages_[p];
      entries[p] = !page.there ? 0 : 1ull << 63;
      if (page.there && !page.zero) entries[p] |= 1ull << 56;
      if (page.there && page.marked) entries[p] |= 1ull << 55;
    }
    const auto off = static_cast<off_t>(address(0) / kPageSize * 8);
    cr_assert(pwrite(files_.pagemap, entries, sizeof(entries), off) == sizeof(entries));
  }

  // After a command that must have cleared the marks, once.
  void clear_marks() {
    char text[8] = {};
    cr_assert_eq(pread(files_.clear_refs, text, sizeof(text), 0), 1);
    cr_assert_eq(text[0], '4');
    cr_assert(ftruncate(files_.clear_refs, 0) == 0 && lseek(files_.clear_refs, 0, SEEK_SET) == 0);
    for (Page& p : pages_) p.marked = false;
  }

  const Run* runs() { return reinterpret_cast<const Run*>(channel_memory_.data() + kRunsOff); }

  void early_pass() {
    if (by_marks()) {
      write_ranges(ranges());
      write_pagemap();
      cr_assert_eq(cr::capture::track_ranges(scope_.proof(), ch(), files_, known_), 0);
      clear_marks();
      change();
    }
    std::vector<Range> all = ranges();
    tracker_.mark_fresh(all, model_, 100);
    write_ranges(all);
    const uint64_t most = random_.below(3) == 0 ? random_.below(30) : kPages;
    ch().staging_first = early_pages_;
    ch().staging_pages = std::min(early_pages_ + most, kStagingPages - kPages);
    cr_assert_eq(cr::capture::copy_early(ch(), files_, known_), 0);
    EarlyPass pass{};
    pass.ranges = all.data();
    pass.range_count = all.size();
    pass.cursor_range = ch().cursor_range;
    pass.cursor_addr = ch().cursor_addr;
    pass.runs.assign(runs(), runs() + ch().run_count);
    pass.knows_its_copies = !by_marks();
    cr_assert(ch().spoiled.count <= 256);
    std::vector<cr::agent::AddressRange> spoiled;
    for (uint64_t i = 0; i < ch().spoiled.count; i++) {
      spoiled.push_back({ch().spoiled.ranges[i].start, ch().spoiled.ranges[i].end});
    }
    if (by_marks()) pass.spoiled = AddressSet(std::move(spoiled));
    tracker_.add_early(std::move(pass), model_, [](const auto&, const auto&) { return true; });
    if (by_marks() && ch().more != 0) tracker_.spoil(AddressSet({{ch().cursor_addr, ~0ull}}));
    early_pages_ = std::max(early_pages_, ch().staging_used);
  }

  // Adds what a portion of the stop brought to the image.
  void append(std::map<uint64_t, Bytes>& image) {
    for (const Run& r : tracker_.resolve(std::vector<Run>(runs(), runs() + ch().run_count))) {
      for (uint64_t i = 0; i < r.pages; i++) {
        const uint64_t page = (r.addr - address(0)) / kPageSize + i;
        cr_assert(page < kPages);
        cr_assert_eq(image.count(page), 0, "page %lu twice", page);
        if (r.staging_page != cr::format::kPagesSame) {
          const uint8_t* data = staging_ + (r.staging_page + i) * kPageSize;
          image[page].assign(data, data + kPageSize);
          continue;
        }
        cr_assert(tracker_.has_basis(), "same as what?");
        same_pages_++;
        const auto last = image_.find(page);
        image[page] = last != image_.end() ? last->second : Bytes(kPageSize);
      }
    }
  }

  void stop(std::map<uint64_t, Bytes>& image) {
    std::vector<Range> all = ranges();
    tracker_.mark_fresh(all, model_, 100);
    write_ranges(all);
    if (by_marks()) write_pagemap();
    cr_assert_eq(cr::capture::begin_capture(scope_.proof(), ch(), files_, known_), 0);
    if (by_marks()) {
      clear_marks();
      const uint64_t page = random_.below(kPages);  // the agent makes a thread do something
      if (pages_[page].there) {
        store(page);
        torn_.insert(page);
      }
    }
    ch().staging_first = early_pages_;
    ch().staging_pages = early_pages_ + (random_.below(3) == 0 ? 5 : kPages);
    for (int portion = 0; portion < 200; portion++) {
      cr_assert_eq(cr::capture::copy_pages(scope_.proof(), ch(), files_, known_), 0);
      append(image);
      if (ch().more == 0) return;
    }
    cr_assert(false, "it does not end");
  }

  void checkpoint() {
    change();
    torn_.clear();
    early_pages_ = 0;
    ch().stamp += 2;
    tracker_.begin(true);
    const uint64_t room = tight_ || random_.below(8) == 0 ? 1 : kPages;
    cr_assert_eq(cr::capture::reserve(room, ch(), known_), 0);
    for (uint64_t n = random_.below(3); n > 0; n--) {
      early_pass();
      change();
    }
    std::map<uint64_t, Bytes> image;
    stop(image);
    const Bytes zeros(kPageSize);
    AddressSet without;
    if (random_.below(3) == 0) {  // no block lies there
      const uint64_t first = random_.below(kPages);
      without = AddressSet({{address(first), address(first + 1 + random_.below(8))}});
    }
    for (uint64_t p = 0; p < kPages; p++) {
      bool out = false;
      for (const auto& r : without.ranges())
        out = out || (address(p) >= r.start && address(p) < r.end);
      if (out) image.erase(p);
      if (out || torn_.count(p) != 0) continue;
      const uint8_t* has = image.count(p) != 0 ? image[p].data() : zeros.data();
      cr_assert(memcmp(has, at(p), kPageSize) == 0, "page %lu is another", p);
      if (!pages_[p].there) pages_[p] = {true, true, false};  // was read here
    }
    if (random_.below(10) == 0) return;  // it failed
    tracker_.commit(without, 0);
    image_ = std::move(image);
  }

  const cr::format::Tracker how_;
  bool tight_ = false;
  Random random_;
  alignas(8) std::vector<uint8_t> channel_memory_;
  cr::capture::Files files_;
  cr::capture::Memory known_;
  cr::capture::StoppedScope scope_;
  uint8_t *staging_ = nullptr, *memory_ = nullptr;
  Page pages_[kPages];
  uint64_t early_pages_ = 0, same_pages_ = 0, seen_ = 0;
  std::set<uint64_t> torn_;
  std::map<uint64_t, Bytes> image_;
  cr::store::Model model_;
  PageTracker tracker_;
};

bool has_scan() {
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  const bool r = cr::capture::has_pagemap_scan(pagemap);
  close(pagemap);
  return r;
}

}  // namespace

Test(back_ends, hashes_tell_what_differs) {
  for (uint64_t seed = 1; seed <= 10; seed++) {
    Machine(cr::format::kTrackerHash, has_scan(), seed).run(150);
  }
}

Test(back_ends, hashes_need_no_pagemap_scan) {
  for (uint64_t seed = 1; seed <= 10; seed++)
    Machine(cr::format::kTrackerHash, false, seed).run(150);
}

Test(back_ends, soft_dirty_marks_tell_what_was_written) {
  for (uint64_t seed = 1; seed <= 10; seed++) {
    Machine(cr::format::kTrackerSoftDirty, false, seed).run(150);
  }
}
