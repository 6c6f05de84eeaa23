// SPDX-License-Identifier: MIT
// scan_help.h - a long look for pages that differ, which two processors take together: the control
// thread begins at its front, the agent at its back, and they meet where they meet.
// Invariant: a piece is claimed once; what the agent has found in one counts when it says so.
// Context: N (agent), S. Doc: docs/ARCHITECTURE.md, "One checkpoint".
#pragma once

#include <stdint.h>

#include "rawsys/pagemap_abi.h"

namespace cr::format {

inline constexpr uint64_t kScanPieces = 1024, kScanRegions = 32768;
inline constexpr uint64_t kNoPiece = ~uint64_t{0};

// Of one piece, by the agent: `count` regions from `first` on tell everything up to `next`.
struct ScanPiece {
  uint64_t job;  // written last
  uint64_t first, count, next;
};

struct ScanHelp {
  uint64_t open;  // job << 32 | front << 16 | back: pieces [front, back) are not claimed yet
  uint64_t start, end, piece_bytes;  // written before the job is opened
  ScanPiece pieces[kScanPieces];
  rawsys::PageRegion regions[kScanRegions];  // as scan_of_differences() finds them

  uint64_t piece_start(uint64_t i) const { return start + i * piece_bytes; }
  uint64_t piece_end(uint64_t i) const {
    return end - piece_start(i) < piece_bytes ? end : piece_start(i) + piece_bytes;
  }
};
inline constexpr uint64_t kScanHelpBytes = 1ull << 20;
static_assert(sizeof(ScanHelp) <= kScanHelpBytes);

inline uint64_t open_word(uint64_t job, uint64_t front, uint64_t back) {
  return job << 32 | front << 16 | back;
}

// kNoPiece: none is left.
inline uint64_t claim_piece(ScanHelp& s, bool at_front, uint64_t* ret_job) {
  uint64_t now = __atomic_load_n(&s.open, __ATOMIC_ACQUIRE);
  for (;;) {
    const uint64_t front = now >> 16 & 0xffff, back = now & 0xffff;
    if (front >= back || back > kScanPieces) return kNoPiece;
    *ret_job = now >> 32;
    const uint64_t then = at_front ? open_word(*ret_job, front + 1, back) : now - 1;
    if (__atomic_compare_exchange_n(&s.open, &now, then, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
      return at_front ? front : back - 1;
    }
  }
}

}  // namespace cr::format
