// SPDX-License-Identifier: MIT
// protection.h - what --protect says: into how many parts a checkpoint is cut, and how many of them
// may be lost.
// Invariant: parse_protection(to_string(p)) is p. Context: N. Doc: docs/store.md.
#pragma once

#include <stdint.h>

#include <string>
#include <string_view>

#include "base/base.h"

namespace cr::store {

inline constexpr unsigned kMostParts = 64, kMostReplicas = 16;

// What --protect says. data is K, parity is M; of "none" they are 1 and 0.
struct Protection {
  enum class Kind : uint8_t { kNone, kReplica, kXor, kRs };
  Kind kind = Kind::kNone;
  unsigned data = 1, parity = 0;

  constexpr unsigned parts() const { return data + parity; }
  bool operator==(const Protection&) const = default;
};

// "none"; "replica:R": R copies, 2 to 16; "xor:G": groups of G parts, one of them parity, 2 to 64;
// "rs:K+M": K data and M parity parts, each at least 1, together at most 64. On failure *ret_text
// names the bad part and the right form.
Result<Protection> parse_protection(std::string_view text, std::string* ret_text);
std::string to_string(const Protection& protection);  // as it is parsed

}  // namespace cr::store
