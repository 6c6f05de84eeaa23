// SPDX-License-Identifier: MIT
// quick_words.h - reading and writing what the program and the agent have in common on the quick
// path.
// Invariant: sequentially consistent; the other side does the same. Context: N (agent).
#pragma once

#include <stdint.h>
#include <time.h>

namespace cr::agent::quick {

// Not by a system call.
inline uint64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000 + static_cast<uint64_t>(t.tv_nsec);
}

template <typename T>
T load(const T& word) {
  return __atomic_load_n(&word, __ATOMIC_SEQ_CST);
}
inline void set(uint32_t& word, uint32_t value) {
  __atomic_store_n(&word, value, __ATOMIC_SEQ_CST);
}

}  // namespace cr::agent::quick
