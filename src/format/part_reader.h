// SPDX-License-Identifier: MIT
// part_reader.h - the reader of part files and of descriptions; distrusts every byte.
// Invariant: a view is only made of records that lie inside the bytes, with every number in range
// and extents sorted and disjoint in pages.
// Context: N, H, S, R. Doc: docs/format/part.md. Fuzzed by tests/fuzz/part_reader_fuzz.cc.
#pragma once

#include <stdint.h>

#include <span>

#include "base/base.h"
#include "format/part.h"

namespace cr::format {

struct DescriptionView {
  std::span<const VolumeRecord> volumes;
  std::span<const VolumeExtent> extents;
  std::span<const HolderRecord> holders;
};

// bytes must be 8-aligned. That no two extents share a slot is not checked: whoever puts pages into
// slots has to (store::SlotMap::adopt).
Result<DescriptionView> read_description(std::span<const uint8_t> bytes, uint64_t slots);

// How many rows each part has at least if the session has so many slots. data_parts must not be 0.
uint64_t rows_for(uint32_t data_parts, uint64_t slots);
// Are the numbers in range? The constants, the checksum and where things lie are not looked at.
Result<void> check_part_numbers(const PartHeader& h);

// Checks the first 512 bytes. Errors: kForeign, kTooNew, kDamaged, kWrongMachine; kNotWhole for an
// empty file or WRITE_LOCK = 0.
Result<PartHeader> read_part_header(const uint8_t* file, uint64_t file_bytes);

struct PartView {
  const uint8_t* file = nullptr;
  PartHeader header{};
  DescriptionView description;
  std::span<const uint8_t> description_bytes;
  std::span<const uint64_t> checks;  // by row

  const uint8_t* row(uint64_t i) const { return file + kPartRowsOff + i * kPageSize; }
};
// Checks everything but the rows. The view points into `file`, which must be 8-aligned.
Result<PartView> read_part(const uint8_t* file, uint64_t file_bytes);

// Is the row what its checksum says?
bool is_row_good(const PartView& part, uint64_t row);

inline constexpr uint64_t kZeroPageSum = 0x93d76fe148c689ba;  // XXH3-64 of a page of zeros

uint64_t part_header_checksum(const PartHeader& h);
// Of a page as rows and slots are checked: XXH3-64, and of a page of zeros 0.
uint64_t row_check(const uint8_t* page);
// The same of a page whose XXH3-64 is known.
inline uint64_t row_check_of(uint64_t sum) {
  if (sum == kZeroPageSum) return 0;
  return sum == 0 ? 1 : sum;
}

}  // namespace cr::format
