// SPDX-License-Identifier: MIT
// pagemap.h - finding the pages that exist: PAGEMAP_SCAN where the kernel has it (Linux 6.7),
// else /proc/self/pagemap entries.
// Invariant: a page with content that the program could read is always reported, and one that was
// written is never reported as not written.
// Context: S.
#pragma once

#include <stdint.h>

namespace cr::capture {

enum class PageState {
  kWritten,  // holds data, and was written since it was last taken; or nobody asked
  kSame,     // holds data, not written since
  kNothing,  // never touched, dropped, or the kernel's page of zeros
};

struct PageRange {
  uint64_t start, end;
  PageState state;
};

// What is looked for. In a mapping without a file every page is private, and to ask would cost a
// cache miss a page.
enum class Pages { kAnonymous, kPrivate, kPresent };

// Finds runs of pages in [start, end) that are private to the process and hold data (kPresent: that
// are present at all). Fills out[0..cap) and returns their number or -errno; *ret_next is
// where to go on.
long find_pages(int pagemap, bool use_scan, Pages which, uint64_t start, uint64_t end,
                PageRange* out, uint64_t cap, uint64_t* ret_next);

// As find_pages, and says which were written since they were last taken, by this function or
// take_written(), or since track_writes(); the next write is counted from here on. At most
// max_pages are found, and only for these is anything changed. -EPERM: writes to this mapping are
// not tracked yet. Linux 6.7.
long take_changes(int pagemap, Pages which, uint64_t start, uint64_t end, uint64_t max_pages,
                  PageRange* out, uint64_t cap, uint64_t* ret_next);

// As find_pages, of anonymous memory, and says which have the kernel's soft-dirty mark.
// (PAGEMAP_SCAN knows the marks too, but not that of a whole mapping, which a new one has.)
long find_marked(int pagemap, bool use_scan, uint64_t start, uint64_t end, PageRange* out,
                 uint64_t cap, uint64_t* ret_next);

// As take_changes, but of anonymous memory, with what is not the same only, and the next capture
// will find the same ones written: everything in [start, *ret_next) that is in no range of `out`
// holds data and was not written. Takes a quarter of the time of listing everything. (Protecting in
// the same scan would make the kernel build page tables for what was never touched.)
long find_differences(int pagemap, uint64_t start, uint64_t end, PageRange* out, uint64_t cap,
                      uint64_t* ret_next);

// What it says of a region that somebody else has found by scan_of_differences().
PageState state_of_difference(uint64_t categories);

// Pages of a shared mapping that are in memory, whether this process has looked at them or not.
// None of them may be in swap.
long find_resident(uint64_t start, uint64_t end, PageRange* out, uint64_t cap, uint64_t* ret_next);

// As take_changes, but only those that were written are found.
long take_written(int pagemap, Pages which, uint64_t start, uint64_t end, uint64_t max_pages,
                  PageRange* out, uint64_t cap, uint64_t* ret_next);

// Are writes to the mapping with this address tracked?
bool is_tracked(int pagemap, uint64_t addr);

// A userfaultfd that only counts writes, or -errno.
long open_tracker();
// From now on writes to this mapping are tracked; all its pages count as written. Whole mappings
// only: the kernel would split one. 0 or -errno.
long track_writes(int tracker, uint64_t map_start, uint64_t map_end);

// All pages of a tracked range count as written. A mapping that has just been registered may have
// pages that are marked as not written and can be written unnoticed: when mremap moves memory
// beside a tracked neighbour, the kernel joins the two, both lose their tracking, and the
// neighbour's pages keep their marks (Linux 6.18; before 6.13 the moved ones as well). 0 or -errno.
long count_as_written(int tracker, uint64_t start, uint64_t end);

// Does this kernel have PAGEMAP_SCAN?
bool has_pagemap_scan(int pagemap);

}  // namespace cr::capture
