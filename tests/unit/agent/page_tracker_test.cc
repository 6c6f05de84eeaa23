// SPDX-License-Identifier: MIT
// page_tracker_test.cc - many checkpoints of a small memory, with copies made while it changes.
// Invariant under test: what a checkpoint is put together from is the memory at the moment of the
// stop, whatever was written, dropped, mapped anew, left out or spoiled before.
#include "agent/page_tracker.h"

#include <criterion/criterion.h>

#include <array>
#include <map>

#include "tests/unit/nvheap/random.h"

using cr::kPageSize;
using cr::agent::AddressRange;
using cr::agent::AddressSet;
using cr::agent::EarlyPass;
using cr::agent::PageTracker;
using cr::format::Range;
using cr::format::Run;
using cr_test::Random;

namespace {

constexpr uint64_t kPages = 96, kMappings = 4;

// A memory with a kernel that counts writes, and a control thread that copies.
class Machine {
 public:
  explicit Machine(uint64_t seed) : random_(seed) {}

  void run(int checkpoints) {
    for (int i = 0; i < checkpoints; i++) checkpoint();
  }

 private:
  struct Page {
    uint64_t value = 0;  // 0: not there
    bool written = true;
  };

  // What the program does between two looks at it.
  void change() {
    for (uint64_t n = random_.below(12); n > 0; n--) {
      Page& p = pages_[random_.below(kPages)];
      switch (random_.below(6)) {
        case 0:
          p = {};  // MADV_DONTNEED
          break;
        case 1: {  // another mapping in place of this one
          const uint64_t m = random_.below(kMappings);
          for (uint64_t i = 0; i < kPages / kMappings; i++) pages_[first_of(m) + i] = {};
          tracked_[m] = false;
          break;
        }
        default:
          p.value = ++values_;
          p.written = true;
      }
    }
  }

  static uint64_t first_of(uint64_t mapping) { return mapping * (kPages / kMappings); }
  static uint64_t mapping_of(const Range& r) {
    return r.map_start / kPageSize / (kPages / kMappings);
  }

  std::vector<Range> ranges() const {
    std::vector<Range> all;
    for (uint64_t m = 0; m < kMappings; m++) {
      const uint64_t start = first_of(m) * kPageSize, end = first_of(m + 1) * kPageSize;
      all.push_back({start, end, cr::format::kRangeAnon, 1, 0, start, end, 0, 0});
    }
    return all;
  }

  void copy(std::vector<Run>& runs, uint64_t page) {
    runs.push_back({page * kPageSize, 1, staging_.size()});
    staging_.push_back(pages_[page].value);
  }

  void register_all(PageTracker& tracker) {
    std::vector<AddressRange> spoiled;
    for (uint64_t m = 0; m < kMappings; m++) {
      if (tracked_[m]) continue;
      tracked_[m] = true;
      spoiled.push_back({first_of(m) * kPageSize, first_of(m + 1) * kPageSize});
    }
    tracker.spoil(AddressSet(std::move(spoiled)));
  }

  void early_pass() {
    std::vector<Range> all = ranges();
    tracker_.mark_fresh(all, model_, random_.below(8) == 0 ? 2 : 1000);
    EarlyPass pass{};
    std::vector<AddressRange> spoiled;
    uint64_t room = random_.below(4) == 0 ? random_.below(30) : kPages;
    pass.cursor_range = all.size();
    for (uint64_t i = 0; i < all.size() && pass.cursor_range == all.size(); i++) {
      const Range& r = all[i];
      if (!tracked_[mapping_of(r)]) {
        spoiled.push_back({r.start, r.end});
        continue;
      }
      for (uint64_t p = r.start / kPageSize; p < r.end / kPageSize; p++) {
        Page& page = pages_[p];
        if (page.value != 0 && (r.fresh != 0 || page.written)) {
          if (room-- == 0) {
            pass.cursor_range = i;
            pass.cursor_addr = p * kPageSize;
            break;
          }
          page.written = false;
          if (random_.below(40) == 0) {
            spoiled.push_back({p * kPageSize, (p + 1) * kPageSize});
          } else {
            copy(pass.runs, p);
          }
        }
        if (random_.below(30) == 0) change();
      }
    }
    pass.ranges = all.data();
    pass.range_count = all.size();
    pass.spoiled = AddressSet(std::move(spoiled));
    tracker_.add_early(std::move(pass), model_);
  }

  std::vector<Run> stop() {
    std::vector<Range> all = ranges();
    tracker_.mark_fresh(all, model_, 1000);
    const bool protect = !tracker_.any_early();
    std::vector<Run> runs;
    for (Range& r : all) {
      const uint64_t m = mapping_of(r);
      if (!tracked_[m]) fresh_[m] = true;
      tracked_[m] = true;
      const bool fresh = r.fresh != 0 || fresh_[m];
      for (uint64_t p = r.start / kPageSize; p < r.end / kPageSize; p++) {
        Page& page = pages_[p];
        if (page.value == 0) continue;
        if (fresh || page.written) {
          copy(runs, p);
          if (fresh || protect) page.written = false;
        } else {
          runs.push_back({p * kPageSize, 1, cr::format::kPagesSame});
        }
      }
    }
    fresh_ = {};
    tracker_.note_final(all.data(), all.size(), model_);
    return runs;
  }

  void checkpoint() {
    change();
    staging_.clear();
    tracker_.begin(true);
    for (uint64_t n = random_.below(4); n > 0; n--) {
      if (random_.below(2) == 0) register_all(tracker_);
      early_pass();
      change();
    }
    const std::vector<Run> resolved = tracker_.resolve(stop());
    // Some pages hold no block and are left out.
    std::vector<AddressRange> left_out;
    for (uint64_t n = random_.below(3); n > 0; n--) {
      const uint64_t start = random_.below(kPages);
      left_out.push_back({start * kPageSize, (start + 1 + random_.below(8)) * kPageSize});
    }
    const AddressSet without(std::move(left_out));
    std::map<uint64_t, uint64_t> image;
    uint64_t last = 0;
    for (const Run& r : resolved) {
      cr_assert(r.addr >= last, "runs do not ascend");
      last = r.addr + r.pages * kPageSize;
      for (uint64_t i = 0; i < r.pages; i++) {
        const uint64_t page = r.addr / kPageSize + i;
        const bool same = r.staging_page == cr::format::kPagesSame;
        cr_assert(!same || tracker_.has_basis(), "same as what?");
        // A page that the last one does not have is one of zeros there: not so here.
        image[page] =
            same ? (image_.count(page) != 0 ? image_[page] : 0) : staging_[r.staging_page + i];
      }
    }
    size_t hint = 0;
    for (uint64_t p = 0; p < kPages; p++) {
      bool out = false;
      cr::agent::split(
          without.ranges(), p * kPageSize, (p + 1) * kPageSize, &hint,
          [&](uint64_t, uint64_t) { out = true; }, [](uint64_t, uint64_t) {});
      if (out) {
        image.erase(p);
        continue;
      }
      const uint64_t has = image.count(p) != 0 ? image[p] : 0;
      cr_assert_eq(has, pages_[p].value, "page %lu: %lu instead of %lu", p, has, pages_[p].value);
    }
    change();                            // before it is whole
    if (random_.below(10) == 0) return;  // it failed
    tracker_.commit(without, 0);
    image_ = std::move(image);
  }

  Random random_;
  std::array<Page, kPages + 16> pages_;
  std::array<bool, kMappings> tracked_{}, fresh_{};
  uint64_t values_ = 0;
  std::vector<uint64_t> staging_;
  std::map<uint64_t, uint64_t> image_;
  cr::store::Model model_;
  PageTracker tracker_;
};

}  // namespace

Test(page_tracker, puts_together_the_memory_of_the_stop) {
  for (uint64_t seed = 1; seed <= 40; seed++) Machine(seed).run(300);
}
