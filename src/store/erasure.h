// SPDX-License-Identifier: MIT
// erasure.h - how a checkpoint is cut into K data parts and M parity parts, any K of which give all
// of it: what --protect means, where each page lies, and the coding (ISA-L, package libisal).
// Invariant: everything here is durable: parts that one build wrote are decoded by every other, so
// the numbering and the matrix below never change.
// Context: N. Doc: docs/store.md.
//
// Stripe. An image is numbered in slots of 4096 bytes. Data column c = (slot / 16) % K, row = slot
// / (16 K) * 16 + slot % 16: sixteen pages that follow each other lie in one part. Slots beyond
// the image's end count as zeros. Parity row r is computed from row r of all columns. Logical part
// p is data column p for p < K, parity p - K otherwise; holder h of the K + M nodes keeps, of row
// r, logical part (h + r / 256) % (K + M), so that parity is spread over all of them.
//
// Matrix. Bytes are elements of GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d). Parity m is, byte
// for byte, the sum (XOR) over all columns c of coefficient(m, c) * data[c], where
//   coefficient(m, c) = 1                         if K = 1 or M = 1 (a copy; XOR)
//   coefficient(m, c) = inverse of (c ^ (K + m))  otherwise
// The latter is a Cauchy matrix: every square part of it can be inverted, so any K parts suffice.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/base.h"
#include "store/protection.h"

namespace cr::store {

inline constexpr uint64_t kUnitPages = 16, kRotateRows = 256;
static_assert(kRotateRows % kUnitPages == 0, "pages that follow each other have one holder");

// Where things lie; see above. Numbers must be in range: column < data, holder and part < parts().
struct Stripe {
  unsigned data = 1, parity = 0;  // K >= 1, M

  struct Place {
    uint64_t row;
    unsigned column;
    bool operator==(const Place&) const = default;
  };

  constexpr explicit Stripe(const Protection& p) : data(p.data), parity(p.parity) {}
  constexpr Stripe(unsigned k, unsigned m) : data(k), parity(m) {}

  constexpr unsigned parts() const { return data + parity; }
  constexpr Place place(uint64_t slot) const {
    return {slot / (kUnitPages * data) * kUnitPages + slot % kUnitPages,
            static_cast<unsigned>(slot / kUnitPages % data)};
  }
  constexpr uint64_t slot(uint64_t row, unsigned column) const {
    return (row / kUnitPages * data + column) * kUnitPages + row % kUnitPages;
  }
  // Data column for a part < data, else parity part - data.
  constexpr unsigned part(uint64_t row, unsigned holder) const {
    return static_cast<unsigned>((holder + row / kRotateRows) % parts());
  }
  constexpr unsigned holder(uint64_t row, unsigned part) const {
    return static_cast<unsigned>((part + parts() - row / kRotateRows % parts()) % parts());
  }
  // How many rows each part has when the image has slots 0..slots-1.
  constexpr uint64_t rows(uint64_t slots) const {
    const uint64_t rest = slots % (kUnitPages * data);
    return slots / (kUnitPages * data) * kUnitPages + (rest < kUnitPages ? rest : kUnitPages);
  }
};

// A set of parts or holders: bit i is part i. K + M is at most 64.
using PartSet = uint64_t;

// The coding of one K and M. Lengths are in bytes and any, memory needs no alignment, but is faster
// at multiples of 64. Thread-safe.
class Erasure {
 public:
  // Protection of at most 64 parts; anything else is kInvalid.
  static Result<std::unique_ptr<Erasure>> make(const Protection& protection);

  Stripe stripe() const { return Stripe(data_, parity_); }
  uint8_t coefficient(unsigned m, unsigned column) const { return matrix_[m * data_ + column]; }

  // All parity of `bytes` bytes: data has K pointers, ret_parity M.
  void encode(const uint8_t* const* data, uint8_t* const* ret_parity, size_t bytes) const;

  // Rebuilds the parts in `want` from those in `have`; all pointers by logical part (K + M of them;
  // those outside the set are not looked at). K parts are read, the lowest of `have`; `want` may
  // hold any part. Fewer than K: kNotWhole, *ret_text says which are missing, nothing is written.
  // Wrong bytes give wrong bytes: checksums are the caller's.
  Result<void> decode(PartSet have, const uint8_t* const* parts, PartSet want,
                      uint8_t* const* ret_parts, size_t bytes, std::string* ret_text) const;
  // "rs:4+2 needs 4 of its 6 parts, but only 3 are there; missing: data 1, data 3, parity 0"
  std::string missing_text(PartSet have) const;

 private:
  // Linear combinations: each output is the sum of coefficients times the inputs.
  struct Plan {
    std::vector<unsigned> inputs;  // logical parts, ascending
    std::vector<unsigned> outputs;
    bool ones = false;            // all coefficients are 1
    std::vector<uint8_t> tables;  // ISA-L's, 32 bytes for each output and input
  };

  explicit Erasure(const Protection& protection);
  // inputs: exactly K parts; outputs: others.
  Plan make_plan(PartSet inputs, PartSet outputs) const;
  std::shared_ptr<const Plan> plan(PartSet inputs, PartSet outputs) const;
  std::vector<uint8_t> rows_of(const std::vector<unsigned>& parts) const;
  static void run(const Plan& plan, const uint8_t* const* in, uint8_t* const* ret, size_t bytes);

  const Protection protection_;
  const unsigned data_, parity_;
  std::vector<uint8_t> matrix_;  // M rows of K coefficients
  Plan encode_;
  mutable std::mutex mutex_;  // of plans_
  mutable std::map<std::pair<PartSet, PartSet>, std::shared_ptr<const Plan>> plans_;
};

}  // namespace cr::store
