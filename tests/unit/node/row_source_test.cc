// SPDX-License-Identifier: MIT
// row_source_test.cc - what each holder of a session gets of its checkpoints, one after another,
// some of them overwritten while they are read.
// Invariant under test: when a source is through, the rows that were given out make each holder's
// part of exactly the newest checkpoint, parity included; nothing is given out twice for nothing.
#include "node/row_source.h"

#include <criterion/criterion.h>
#include <string.h>

#include <functional>
#include <map>

#include "format/part_reader.h"
#include "tests/unit/node/written_session.h"
#include "tests/unit/nvheap/random.h"

namespace {

using cr::kPageSize;
using cr::node::RowSource;
using cr::store::Erasure;
using cr::store::kUnitPages;
using cr::store::Protection;
using cr_test::kPages;
using cr_test::kStart;
using cr_test::Pages;
using cr_test::Random;
using cr_test::WrittenSession;

std::unique_ptr<Erasure> erasure(const Protection& p) {
  auto made = Erasure::make(p);
  cr_assert(made.has_value());
  return std::move(*made);
}

// What a holder has: rows that are not zeros.
using Part = std::map<uint64_t, std::string>;

class Holders {
 public:
  explicit Holders(const Protection& p)
      : erasure_(erasure(p)), source(erasure(p)), parts(source.stripe().parts()) {}

  // Gives the holders all units once; full: which of them have no base.
  uint64_t pass(const std::vector<bool>& full, const std::function<void()>& between) {
    uint64_t given = 0;
    bool any_full = false;
    for (const bool f : full) any_full |= f;
    for (uint64_t first = 0; first < source.rows();) {
      RowSource::Unit unit = source.look_at(first, any_full);
      cr_assert(unit.count > 0 && unit.count <= kUnitPages);
      if (unit.wanted != 0) {
        between();
        source.read(unit, any_full);
        given += give(unit, full);
        source.mark_sent(unit);
      }
      first += unit.count;
    }
    return given;
  }

  void expect(const Pages& pages) const {
    const auto bytes = source.describe(std::vector<std::string>(parts.size(), "node"));
    std::vector<uint64_t> aligned((bytes.size() + 7) / 8);
    memcpy(aligned.data(), bytes.data(), bytes.size());
    const auto d = cr::format::read_description(
        {reinterpret_cast<const uint8_t*>(aligned.data()), bytes.size()}, source.slots());
    cr_assert(d.has_value());
    const cr::store::Stripe& stripe = source.stripe();
    uint64_t stored = 0;
    for (const auto& e : d->extents) {
      for (uint64_t i = 0; e.volume == 0 && i < e.pages; i++) {
        const auto [row, column] = stripe.place(e.slot + i);
        const auto what = pages.find((e.page + i) * kPageSize);
        cr_assert(what != pages.end() && what->second != 0, "a page that is not there");
        cr_assert(data(row, column) == cr_test::content(what->second), "row %lu", row);
        stored++;
      }
    }
    uint64_t nonzero = 0;
    for (const auto& [addr, what] : pages) nonzero += what != 0;
    cr_assert_eq(stored, nonzero);
    if (stripe.data > 1) expect_parity();
  }

 private:
  std::unique_ptr<Erasure> erasure_;

 public:
  RowSource source;
  std::vector<Part> parts;

 private:
  uint64_t give(const RowSource::Unit& unit, const std::vector<bool>& full) {
    uint64_t given = 0;
    for (uint64_t r = 0; r < unit.count; r++) {
      if (((unit.wanted & ~unit.bad) >> r & 1) == 0) continue;
      for (unsigned h = 0; h < parts.size(); h++) {
        const auto row = source.row(unit, r, h, full[h]);
        if (!row) continue;
        given++;
        if (row->check == 0) {
          parts[h].erase(unit.first + r);
          continue;
        }
        cr_assert_eq(cr::format::row_check(row->page), row->check);
        parts[h][unit.first + r].assign(reinterpret_cast<const char*>(row->page), kPageSize);
      }
    }
    return given;
  }

  std::string row_of(unsigned holder, uint64_t row) const {
    const auto at = parts[holder].find(row);
    return at != parts[holder].end() ? at->second : std::string(kPageSize, '\0');
  }
  std::string data(uint64_t row, unsigned column) const {
    const cr::store::Stripe& stripe = source.stripe();
    if (stripe.data > 1) return row_of(stripe.holder(row, column), row);
    for (unsigned h = 1; h < parts.size(); h++) cr_assert(row_of(h, row) == row_of(0, row));
    return row_of(0, row);
  }

  void expect_parity() const {
    const cr::store::Stripe& stripe = source.stripe();
    for (uint64_t row = 0; row < source.rows(); row++) {
      std::vector<std::string> in, out(stripe.parity, std::string(kPageSize, '\0'));
      std::vector<const uint8_t*> from;
      std::vector<uint8_t*> to;
      for (unsigned c = 0; c < stripe.data; c++) in.push_back(data(row, c));
      for (const std::string& page : in) from.push_back(reinterpret_cast<const uint8_t*>(&page[0]));
      for (std::string& page : out) to.push_back(reinterpret_cast<uint8_t*>(&page[0]));
      erasure_->encode(from.data(), to.data(), kPageSize);
      for (unsigned m = 0; m < stripe.parity; m++) {
        cr_assert(row_of(stripe.holder(row, stripe.data + m), row) == out[m], "row %lu", row);
      }
    }
  }
};

void change(Pages& pages, Random& random) {
  const uint64_t begin = random.below(kPages);
  const uint64_t end = std::min(kPages, begin + 1 + random.below(random.one_in(4) ? 100 : 5));
  const bool gone = random.one_in(6), zero = random.one_in(6);
  for (uint64_t i = begin; i < end; i++) {
    if (gone) {
      pages.erase(kStart + i * kPageSize);
    } else {
      pages[kStart + i * kPageSize] = zero ? 0 : 1 + random.below(1000000);
    }
  }
}

const Protection kProtections[] = {{Protection::Kind::kReplica, 1, 1},
                                   {Protection::Kind::kXor, 2, 1},
                                   {Protection::Kind::kXor, 4, 1},
                                   {Protection::Kind::kRs, 3, 2}};

void open(Holders& holders, const WrittenSession& session) {
  const auto opened = holders.source.open(session.dir());
  cr_assert(opened.has_value(), "%s", opened.error().what);
}

}  // namespace

Test(row_source, holders_have_what_was_given_out) {
  Random random(cr_test::test_seed());
  for (const Protection& p : kProtections) {
    WrittenSession session;
    Holders holders(p);
    Pages pages = cr_test::full(1);
    std::vector<bool> full(holders.parts.size(), true);
    std::vector<uint64_t> sent;
    for (uint64_t sequence = 1; sequence <= 12; sequence++) {
      for (uint64_t k = random.below(4); k > 0; k--) change(pages, random);
      session.write({pages}, sequence);
      open(holders, session);
      if (sequence > 1 && random.one_in(3)) {
        const unsigned lost = static_cast<unsigned>(random.below(full.size()));
        holders.parts[lost].clear();
        full[lost] = true;
      }
      holders.source.begin(sent);
      (void)holders.pass(full, [] {});
      cr_assert_not(holders.source.is_overtaken());
      holders.source.mark_all_sent();
      holders.expect(pages);
      sent = holders.source.sent();
      full.assign(full.size(), false);
      cr_assert_eq(holders.pass(full, [] {}), 0u, "what they have already");
      holders.source.close();
    }
  }
}

// Both buffers are written anew while the first is read, at a moment of each pass.
Test(row_source, overwritten_rows_come_from_the_checkpoint_that_did_it) {
  Random random(cr_test::test_seed());
  unsigned overtaken = 0;
  for (const Protection& p : kProtections) {
    for (unsigned story = 0; story < 10; story++) {
      WrittenSession session;
      Holders holders(p);
      Pages pages = cr_test::full(1);
      uint64_t sequence = 1;
      session.write({pages}, sequence);
      open(holders, session);
      holders.source.begin({});
      std::vector<bool> full(holders.parts.size(), true);
      for (unsigned passes = 1;; passes++) {
        cr_assert_lt(passes, 8u);
        uint64_t left = passes < 4 ? random.below(12) : ~uint64_t{0};
        (void)holders.pass(full, [&] {
          if (left-- != 0) return;
          for (int twice = 0; twice < 2; twice++) {
            for (uint64_t k = 1 + random.below(20); k > 0; k--) change(pages, random);
            session.write({pages}, ++sequence);
          }
        });
        full.assign(full.size(), false);
        // If nothing was hit, what was sent is a checkpoint that is not the newest; again then.
        if (!holders.source.is_overtaken() &&
            holders.source.image().triple().sequence == sequence) {
          break;
        }
        overtaken += holders.source.is_overtaken();
        open(holders, session);
      }
      holders.source.mark_all_sent();
      holders.expect(pages);
    }
  }
  cr_assert_gt(overtaken, 5u, "the test does not do what it is for");
}

Test(row_source, a_page_changes_a_row_of_one_part_and_of_the_parity) {
  for (const Protection& p : kProtections) {
    WrittenSession session;
    Holders holders(p);
    Pages pages = cr_test::full(1);
    for (uint64_t sequence = 1; sequence <= 2; sequence++) session.write({pages}, sequence);
    open(holders, session);
    std::vector<bool> full(holders.parts.size(), true);
    holders.source.begin({});
    (void)holders.pass(full, [] {});
    holders.source.mark_all_sent();
    const std::vector<uint64_t> sent = holders.source.sent();
    pages[kStart + 7 * kPageSize] = 424242;
    session.write({pages}, 3);
    open(holders, session);
    holders.source.begin(sent);
    const uint64_t given = holders.pass(std::vector<bool>(full.size(), false), [] {});
    holders.source.mark_all_sent();
    holders.expect(pages);
    // The page, and a few of METADATA and the superblock.
    const uint64_t each = p.data == 1 ? p.data + p.parity : 1 + p.parity;
    cr_assert(given >= each && given <= 24 * each, "%lu rows", given);
  }
}

Test(row_source, errors_of_the_images_are_passed_on) {
  WrittenSession session;
  Holders holders(kProtections[0]);
  const auto opened = holders.source.open(session.dir());
  cr_assert_not(opened.has_value());
}
