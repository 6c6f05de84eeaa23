// SPDX-License-Identifier: MIT
// row_source.h - the rows of each part of a session's newest checkpoint: which of them differ from
// what its holders have, and what is in them.
// Invariant: a row that is given out has, in each of its pages, what the checksums of one
// checkpoint say; what the session has overwritten meanwhile is never given out.
// Context: N; one thread. Doc: docs/store.md.
//
//   open() - begin() - for each unit: look_at(), read(), row() of each holder, mark_sent()
//   is_overtaken(): some rows were overwritten; open() the checkpoint that did it, and all units
//   again, of which only those rows and what that checkpoint changed are wanted any more.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/session_image.h"
#include "store/erasure.h"

namespace cr::node {

class RowSource {
 public:
  // Up to store::kUnitPages rows that follow each other. Bit i of the sets: row first + i.
  struct Unit {
    uint64_t first = 0, count = 0;
    uint64_t changed = 0;  // rows of which some page differs from what was sent
    uint64_t wanted = 0;   // ... or, for a holder without a base, is not zeros
    uint64_t bad = 0;      // of these, overwritten before they were read
  };
  struct Row {
    uint64_t check;
    const uint8_t* page;  // until the next read()
  };

  explicit RowSource(std::unique_ptr<store::Erasure> erasure);

  const store::Stripe& stripe() const { return stripe_; }
  // The newest checkpoint of that image directory, from its first row on. Errors as
  // SessionImage::open().
  Result<void> open(const std::string& dir);
  // Only until close().
  const SessionImage& image() const { return *image_; }
  // Gives back the memory that is only needed while rows are read.
  void close() { image_.reset(); }
  uint64_t slots() const { return map_.slots(); }
  uint64_t rows() const { return rows_; }  // of each part
  // See description_of().
  std::vector<uint8_t> describe(const std::vector<std::string>& holders) const;

  // What the holders have: checks by slot, as sent() was when they got it; none: nothing.
  void begin(const std::vector<uint64_t>& sent) { sent_ = sent; }
  const std::vector<uint64_t>& sent() const { return sent_; }
  // full: some holder has no base.
  Unit look_at(uint64_t first, bool full) const;
  // Reads what is wanted of the unit and computes its parity.
  void read(Unit& unit, bool full);
  // Of row first + r, which is wanted and not bad, what that holder is to get; full: it has no
  // base. none: it has that already.
  std::optional<Row> row(const Unit& unit, uint64_t r, unsigned holder, bool full) const;
  void mark_sent(const Unit& unit);
  bool is_overtaken() const { return overtaken_; }
  // All units were sent, and none was overtaken.
  void mark_all_sent() { sent_ = content_.checks; }

 private:
  uint64_t check_of(uint64_t slot) const {
    return slot < content_.checks.size() ? content_.checks[slot] : 0;
  }
  uint64_t sent_check(uint64_t slot) const { return slot < sent_.size() ? sent_[slot] : 0; }
  uint8_t* page(unsigned part, uint64_t r) const;
  uint64_t read_column(const Unit& unit, unsigned column, bool all);
  void encode(const Unit& unit);

  std::unique_ptr<store::Erasure> erasure_;
  store::Stripe stripe_;
  std::vector<SeenMetadata> seen_;
  store::SlotMap map_;
  std::unique_ptr<SessionImage> image_;
  SlotContent content_;
  std::vector<uint64_t> sent_;  // by slot: check of what the holders have
  uint64_t rows_ = 0;
  bool overtaken_ = false;
  std::unique_ptr<uint8_t[]> scratch_;  // of a unit: the pages of each part, one part after another
};

}  // namespace cr::node
