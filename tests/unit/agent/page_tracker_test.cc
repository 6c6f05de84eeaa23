// SPDX-License-Identifier: MIT
// page_tracker_test.cc - many checkpoints of a small memory, with copies made while it changes.
// Invariant under test: what a checkpoint is put together from is the memory at the moment of the
// stop, whatever was written, dropped, mapped anew, left out or spoiled before.
#include "agent/page_tracker.h"

#include <criterion/criterion.h>

#include <array>
#include <map>
#include <set>

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

// How the control thread knows what was written (format::Tracker).
enum class Kind { kUserfault, kSoftDirty, kHash };

// A memory with a kernel that counts writes, or marks them, or does nothing, and a control thread
// that copies.
class Machine {
 public:
  Machine(Kind kind, uint64_t seed) : kind_(kind), random_(seed) {}

  void run(int checkpoints) {
    for (int i = 0; i < checkpoints; i++) checkpoint();
  }

 private:
  struct Page {
    uint64_t value = 0;  // 0: not there, or the kernel's page of zeros
    bool written = true;
    bool marked = false, zero_page = false;
    bool is_there() const { return value != 0 || zero_page; }
  };
  struct Hashed {  // of the newest copy; here a page's hash is its value
    uint64_t hash = 0, stamp = 0;
  };
  struct Listed {
    bool there = false, written = false;
  };

  // What the program does between two looks at it.
  void change() {
    for (uint64_t n = random_.below(12); n > 0; n--) {
      Page& p = pages_[random_.below(kPages)];
      switch (random_.below(7)) {
        case 0:
          p = {};  // MADV_DONTNEED
          break;
        case 1: {  // another mapping in place of this one
          const uint64_t m = random_.below(kMappings);
          for (uint64_t i = 0; i < kPages / kMappings; i++) pages_[first_of(m) + i] = {};
          tracked_[m] = false;
          break;
        }
        case 2:  // read
          if (p.value == 0 && kind_ != Kind::kUserfault) p.zero_page = true;
          break;
        default:
          store(p);
      }
    }
  }

  // Often what was there, or elsewhere, before.
  void store(Page& p) {
    p = {random_.below(2) == 0 ? 1 + random_.below(3) : ++values_, true, true, false};
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

  // All marks, and a list that may end early. Returns where it does.
  uint64_t take_marks() {
    for (uint64_t p = 0; p < kPages; p++) {
      list_[p] = {pages_[p].is_there(), pages_[p].marked || pages_[p].value == 0};
      pages_[p].marked = false;
    }
    return random_.below(8) == 0 ? random_.below(kPages) : kPages;
  }

  // false: there is no room.
  bool take(EarlyPass& pass, uint64_t page, uint64_t* room) {
    if ((*room)-- == 0) return false;
    copy(pass.runs, page);
    return true;
  }

  void early_pass_by_marks() {
    const uint64_t known_end = take_marks();
    const std::vector<Range> then = ranges();
    change();
    early_pass_of(then, [&](EarlyPass& pass, std::vector<AddressRange>& spoiled, const Range& r,
                            uint64_t p, uint64_t* room) {
      if (p >= known_end) {
        spoiled.push_back({p * kPageSize, (p + 1) * kPageSize});
      } else if (list_[p].there && (r.fresh != 0 || list_[p].written)) {
        if (pages_[p].is_there()) return take(pass, p, room);
        spoiled.push_back({p * kPageSize, (p + 1) * kPageSize});
      }
      return true;
    });
  }

  void early_pass_by_hash() {
    early_pass_of(ranges(), [&](EarlyPass& pass, std::vector<AddressRange>&, const Range& r,
                                uint64_t p, uint64_t* room) {
      pass.knows_its_copies = true;
      const Page& page = pages_[p];
      if (!page.is_there() || is_same(r, p)) return true;
      if (random_.below(40) == 0) return true;  // went away
      if (!take(pass, p, room)) return false;
      hashed_[p] = {page.value, stamp_};
      return true;
    });
  }

  bool is_same(const Range& r, uint64_t p) const {
    return hashed_[p].stamp >= (r.fresh != 0 ? stamp_ : stamp_ - 1) &&
           hashed_[p].hash == pages_[p].value;
  }

  // look(pass, spoiled, range, page, room) is false where the pass must end.
  template <typename Look>
  void early_pass_of(std::vector<Range> all, Look look) {
    tracker_.mark_fresh(all, model_, random_.below(8) == 0 ? 2 : 1000);
    EarlyPass pass{};
    pass.knows_its_copies = kind_ == Kind::kHash;
    std::vector<AddressRange> spoiled;
    uint64_t room = random_.below(4) == 0 ? random_.below(30) : kPages;
    pass.cursor_range = all.size();
    for (uint64_t i = 0; i < all.size() && pass.cursor_range == all.size(); i++) {
      for (uint64_t p = all[i].start / kPageSize; p < all[i].end / kPageSize; p++) {
        if (!look(pass, spoiled, all[i], p, &room)) {
          pass.cursor_range = i;
          pass.cursor_addr = p * kPageSize;
          break;
        }
        if (random_.below(30) == 0) change();
      }
    }
    pass.ranges = all.data();
    pass.range_count = all.size();
    pass.spoiled = AddressSet(std::move(spoiled));
    const uint64_t cursor = pass.cursor_addr;
    const bool through = pass.cursor_range == all.size();
    tracker_.add_early(std::move(pass), model_, [](const auto&, const auto&) { return true; });
    // The marks of the rest are gone, and it was not copied.
    if (!through && kind_ == Kind::kSoftDirty) tracker_.spoil(AddressSet({{cursor, ~0ull}}));
  }

  // The stop, by marks or by hash.
  std::vector<Run> compare_in_stop() {
    std::vector<Range> all = ranges();
    tracker_.mark_fresh(all, model_, 1000);
    const uint64_t known_end = kind_ == Kind::kSoftDirty ? take_marks() : 0;
    if (kind_ == Kind::kSoftDirty && random_.below(2) == 0) {  // the agent makes a thread report
      const uint64_t p = random_.below(kPages);
      if (pages_[p].is_there()) {
        store(pages_[p]);
        torn_.insert(p);
      }
    }
    std::vector<Run> runs;
    for (const Range& r : all) {
      for (uint64_t p = r.start / kPageSize; p < r.end / kPageSize; p++) {
        if (!pages_[p].is_there()) continue;
        const bool same = kind_ == Kind::kHash ? is_same(r, p)
                                               : p < known_end && r.fresh == 0 && !list_[p].written;
        if (same) {
          runs.push_back({p * kPageSize, 1, cr::format::kPagesSame});
        } else {
          copy(runs, p);
        }
        hashed_[p] = {pages_[p].value, stamp_ + 1};
      }
    }
    tracker_.note_final(all.data(), all.size(), model_);
    return runs;
  }

  void early_pass() {
    if (kind_ == Kind::kSoftDirty) return early_pass_by_marks();
    if (kind_ == Kind::kHash) return early_pass_by_hash();
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
    tracker_.add_early(std::move(pass), model_, [](const auto&, const auto&) { return true; });
  }

  std::vector<Run> stop() {
    if (kind_ != Kind::kUserfault) return compare_in_stop();
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
    torn_.clear();
    stamp_ += 2;
    tracker_.begin(true);
    for (uint64_t n = random_.below(4); n > 0; n--) {
      if (kind_ == Kind::kUserfault && random_.below(2) == 0) register_all(tracker_);
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
      if (torn_.count(p) != 0) continue;  // written in the stop, not by the program
      const uint64_t has = image.count(p) != 0 ? image[p] : 0;
      cr_assert_eq(has, pages_[p].value, "page %lu: %lu instead of %lu", p, has, pages_[p].value);
    }
    change();                            // before it is whole
    if (random_.below(10) == 0) return;  // it failed
    tracker_.commit(without, 0);
    image_ = std::move(image);
  }

  Kind kind_;
  Random random_;
  std::array<Page, kPages + 16> pages_;
  std::array<Hashed, kPages> hashed_{};
  std::array<Listed, kPages> list_{};
  std::set<uint64_t> torn_;
  uint64_t stamp_ = 0;
  std::array<bool, kMappings> tracked_{}, fresh_{};
  uint64_t values_ = 0;
  std::vector<uint64_t> staging_;
  std::map<uint64_t, uint64_t> image_;
  cr::store::Model model_;
  PageTracker tracker_;
};

}  // namespace

Test(page_tracker, puts_together_the_memory_of_the_stop) {
  for (uint64_t seed = 1; seed <= 40; seed++) Machine(Kind::kUserfault, seed).run(300);
}

Test(page_tracker, puts_it_together_by_soft_dirty_marks) {
  for (uint64_t seed = 1; seed <= 40; seed++) Machine(Kind::kSoftDirty, seed).run(300);
}

Test(page_tracker, puts_it_together_by_hashes) {
  for (uint64_t seed = 1; seed <= 40; seed++) Machine(Kind::kHash, seed).run(300);
}
