// SPDX-License-Identifier: MIT
// random.h - repeatable randomness for the heap's and the threads' tests.
// Invariant: a run prints its seed, and CR_TEST_SEED=n repeats it.
// Context: N.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace cr_test {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {  // splitmix64
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t n) { return next() % n; }
  bool one_in(uint64_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

inline uint64_t test_seed() {
  const char* given = getenv("CR_TEST_SEED");
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 0)
                                         : static_cast<uint64_t>(now.tv_nsec ^ now.tv_sec);
  fprintf(stderr, "CR_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace cr_test
