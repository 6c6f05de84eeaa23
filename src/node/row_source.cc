// SPDX-License-Identifier: MIT
// row_source.cc - see row_source.h. Invariant: as there. Context: N.
#include "node/row_source.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "format/part_reader.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kUnknown = ~uint64_t{0};  // a check that no row has
constexpr uint64_t kUnitBytes = store::kUnitPages * kPageSize;
static_assert(store::kUnitPages <= 64);  // bits of a set of rows

bool has(uint64_t set, uint64_t r) { return (set >> r & 1) != 0; }

}  // namespace

RowSource::RowSource(std::unique_ptr<store::Erasure> erasure)
    : erasure_(std::move(erasure)),
      stripe_(erasure_->stripe()),
      scratch_(std::make_unique<uint8_t[]>(stripe_.parts() * kUnitBytes)) {}

Result<void> RowSource::open(const std::string& dir) {
  CR_TRY(image_, SessionImage::open(dir));
  image_->place(seen_, map_, &content_);
  rows_ = stripe_.rows(map_.slots());
  overtaken_ = false;
  return {};
}

std::vector<uint8_t> RowSource::describe(const std::vector<std::string>& holders) const {
  return description_of(image_->volumes(), map_.extents(), holders);
}

RowSource::Unit RowSource::look_at(uint64_t first, bool full) const {
  Unit unit{.first = first, .count = std::min(store::kUnitPages, rows_ - first)};
  uint64_t nonzero = 0;
  for (unsigned c = 0; c < stripe_.data; c++) {
    const uint64_t base = stripe_.slot(first, c);
    for (uint64_t r = 0; r < unit.count; r++) {
      const uint64_t check = check_of(base + r);
      unit.changed |= static_cast<uint64_t>(check != sent_check(base + r)) << r;
      nonzero |= static_cast<uint64_t>(check != 0) << r;
    }
  }
  unit.wanted = unit.changed | (full ? nonzero : 0);
  return unit;
}

uint8_t* RowSource::page(unsigned part, uint64_t r) const {
  return scratch_.get() + part * kUnitBytes + r * kPageSize;
}

// The column's pages of the rows that are wanted; all: also those that have not changed. Returns
// the rows of which the page is not what it was any more.
uint64_t RowSource::read_column(const Unit& unit, unsigned column, bool all) {
  uint64_t bad = 0;
  const uint64_t base = stripe_.slot(unit.first, column);
  const auto wanted = [&](uint64_t r) {
    return has(unit.wanted, r) && (all || check_of(base + r) != sent_check(base + r));
  };
  for (uint64_t r = 0; r < unit.count;) {
    const uint64_t from = r++;
    if (!wanted(from)) continue;
    if (check_of(base + from) == 0) {
      memset(page(column, from), 0, kPageSize);
      continue;
    }
    const uint64_t where = content_.where[base + from];
    while (r < unit.count && wanted(r) && check_of(base + r) != 0 &&
           content_.where[base + r] == where + (r - from)) {
      r++;
    }
    const auto read = image_->read_pages(where, r - from, page(column, from));
    for (uint64_t k = from; k < r; k++) {
      const bool same = read && *read && row_check(page(column, k)) == check_of(base + k);
      if (!same) bad |= uint64_t{1} << k;
    }
  }
  return bad;
}

void RowSource::encode(const Unit& unit) {
  const uint64_t rows = unit.wanted & ~unit.bad;
  for (uint64_t r = 0; r < unit.count;) {
    const uint64_t from = r++;
    if (!has(rows, from)) continue;
    while (r < unit.count && has(rows, r)) r++;
    const uint8_t* data[kMostPartHolders];
    uint8_t* coded[kMostPartHolders];
    for (unsigned c = 0; c < stripe_.data; c++) data[c] = page(c, from);
    for (unsigned m = 0; m < stripe_.parity; m++) coded[m] = page(stripe_.data + m, from);
    erasure_->encode(data, coded, (r - from) * kPageSize);
  }
}

void RowSource::read(Unit& unit, bool full) {
  const bool parity = stripe_.data > 1 && stripe_.parity > 0;
  for (unsigned c = 0; c < stripe_.data; c++) unit.bad |= read_column(unit, c, parity || full);
  overtaken_ |= unit.bad != 0;
  if (parity) encode(unit);
}

std::optional<RowSource::Row> RowSource::row(const Unit& unit, uint64_t r, unsigned holder,
                                             bool full) const {
  const uint64_t number = unit.first + r;
  const unsigned part = stripe_.data == 1 ? 0 : stripe_.part(number, holder);
  const uint8_t* bytes = page(part, r);
  if (part < stripe_.data) {
    const uint64_t slot = stripe_.slot(number, part), check = check_of(slot);
    if (check != sent_check(slot) || (full && check != 0)) return Row{check, bytes};
  } else if (has(unit.changed, r) || full) {
    return Row{row_check(bytes), bytes};
  }
  return std::nullopt;
}

void RowSource::mark_sent(const Unit& unit) {
  const uint64_t good = unit.wanted & ~unit.bad;
  if (sent_.size() < content_.checks.size()) sent_.resize(content_.checks.size());
  for (unsigned c = 0; c < stripe_.data; c++) {
    const uint64_t base = stripe_.slot(unit.first, c);
    for (uint64_t r = 0; r < unit.count && base + r < sent_.size(); r++) {
      if (has(good, r)) sent_[base + r] = check_of(base + r);
      if (has(unit.bad, r)) sent_[base + r] = kUnknown;
    }
  }
}

}  // namespace cr::node
