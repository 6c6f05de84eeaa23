// SPDX-License-Identifier: MIT
// pagemap.h - finding the pages that exist: PAGEMAP_SCAN where the kernel has it (Linux 6.7),
// else /proc/self/pagemap entries.
// Invariant: a page with content that the program could read is always reported.
// Context: S.
#pragma once

#include <stdint.h>

namespace cr::capture {

struct PageRange {
  uint64_t start, end;
};

// Finds runs of pages in [start, end) that are private to the process and hold data (`shared`:
// that are present at all). Fills out[0..cap) and returns their number or -errno; *ret_next is
// where to go on.
long find_pages(int pagemap, bool use_scan, bool shared, uint64_t start, uint64_t end,
                PageRange* out, uint64_t cap, uint64_t* ret_next);

// Does this kernel have PAGEMAP_SCAN?
bool has_pagemap_scan(int pagemap);

}  // namespace cr::capture
