// SPDX-License-Identifier: MIT
// retention.h - which of a session's flushed checkpoints are kept, and which are removed.
// Invariant: the newest one is always kept; parse_retention(to_string(r)) is r.
// Context: N. Doc: docs/store.md.
#pragma once

#include <stdint.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/base.h"

namespace cr::node {

// How many of each kind are kept. A period without a checkpoint does not count. Periods are those
// of UTC; weeks begin on Monday.
struct Retention {
  unsigned last = 0;    // the newest ones
  unsigned hourly = 0;  // the newest of each hour
  unsigned daily = 0;
  unsigned weekly = 0;

  bool keeps_all() const { return last + hourly + daily + weekly == 0; }
  bool operator==(const Retention&) const = default;
};
inline constexpr unsigned kMostKept = 100'000;  // of each rule

// "last:3,hourly:24,daily:7,weekly:4" or some of that; "": all are kept. On failure *ret_text names
// the bad part and the right form.
Result<Retention> parse_retention(std::string_view text, std::string* ret_text);
std::string to_string(const Retention& r);  // as it is parsed

// For each one, whether it is kept. realtime_ns: when the program was stopped for it, newest
// checkpoint first (not: latest time; clocks may be wrong).
std::vector<bool> kept(const Retention& r, const std::vector<uint64_t>& realtime_ns);

}  // namespace cr::node
