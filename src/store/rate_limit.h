// SPDX-License-Identifier: MIT
// rate_limit.h - a bound on bytes per second: a token bucket, without a clock of its own.
// Invariant: over any time the bytes are at most the rate times that time, plus the burst and one
// spend(). Context: N; one thread.
#pragma once

#include <stdint.h>

#include <algorithm>

namespace cr::store {

class RateLimit {
 public:
  static constexpr uint64_t kBurstNs = 100'000'000;  // what was not used is kept so long

  // 0: no bound.
  explicit RateLimit(uint64_t bytes_per_second) : rate_(bytes_per_second) {}

  // From when on more may be spent.
  uint64_t free_ns() const { return free_ns_; }
  void spend(uint64_t now_ns, uint64_t bytes) {
    if (rate_ == 0) return;
    const uint64_t kept = now_ns > kBurstNs ? now_ns - kBurstNs : 0;
    const auto ns = static_cast<unsigned __int128>(bytes) * 1'000'000'000 / rate_;
    const uint64_t most = ~uint64_t{0} / 4;
    free_ns_ = std::max(free_ns_, kept) + (ns < most ? static_cast<uint64_t>(ns) : most);
  }

 private:
  uint64_t rate_;
  uint64_t free_ns_ = 0;
};

}  // namespace cr::store
