// SPDX-License-Identifier: MIT
// quick_pages.h - the pages that a program with one thread has written since its last checkpoint,
// found and copied by that thread itself.
// Invariant: as capture.h. What is marked as not written is in the copy; the program's memory is
// read by the kernel only (process_vm_readv), so a page that cannot be read is an error code.
// Context: N, in the program, on its only thread. Doc: docs/ARCHITECTURE.md, "The quick path".
//
// A page that is marked as not written costs a fault when it is written again, some 0.5 us. Where
// the same pages are written between any two checkpoints they stay unmarked for kUnmarked
// checkpoints, and are simply copied each time.
#pragma once

#include "format/quick.h"

namespace cr::capture {

inline constexpr uint32_t kUnmarked = 15;

struct QuickFound {
  uint64_t runs, anonymous_runs;  // in head.runs; the anonymous ones come first
  uint64_t pages;                 // that hold data, at most
  uint64_t anonymous_pages;
};

// Lists what there is to copy; of files, the pages that were private at the last ordinary
// checkpoint. Changes nothing. 0, or -EPERM: memory that is not tracked. -E2BIG: more than a
// checkpoint may have.
long quick_find(format::QuickHead& head, int pagemap, QuickFound* ret);

// Marks the pages as not written, if it is time to; from then on head.marking is 1. 0 or -errno.
long quick_mark(format::QuickHead& head, int pagemap, QuickFound* found);

// Copies runs and pages to the ring, from its page `first` on. Fills in the slot's ring_ and
// run_count. 0 or -errno. Private pages of files are compared with their copies, where there are
// some, and only those that differ are left in the list.
long quick_copy(format::QuickHead& head, uint64_t first, QuickFound* found,
                format::QuickSlot& slot);

// Pages of the ring that the runs themselves take.
constexpr uint64_t quick_table_pages(uint64_t count) {
  return page_ceil(count * sizeof(format::Run)) / kPageSize;
}

// The runs of pages in the head's ranges of files that are not the files'. Context: S. 0 or -errno.
long list_private(format::QuickHead& head, int pagemap);

}  // namespace cr::capture
