// SPDX-License-Identifier: MIT
// soft_dirty.h - pages that were written since they were last asked for, by the kernel's soft-dirty
// marks (--track=softdirty). Clearing the marks is possible for the whole process only.
// Invariant: marks are read and cleared with every thread stopped, and nothing writes to the
// program in between; what was read is kept here, in a list, until it is copied.
// Context: reserve N; the rest S; looking at the list also N (control thread).
// Doc: docs/ARCHITECTURE.md, "Back ends".
#pragma once

#include "capture/pagemap.h"
#include "capture/side_memory.h"
#include "format/channel.h"

namespace cr::capture {

class SoftDirty {
 public:
  // Room in the list for the worst case of so many pages, up to 1/16 of their size.
  long reserve(uint64_t pages);
  void clear();

  // Reads the marks of all anonymous ranges of the table, and clears those of the process.
  long take_marks(int pagemap, bool use_scan, int clear_refs, const format::ChannelHeader& channel);

  // What was found in [start, end), as find_pages: kWritten or kSame.
  uint64_t listed(uint64_t start, uint64_t end, PageRange* out, uint64_t cap,
                  uint64_t* ret_next) const;
  // Of what lies here or behind nothing is known: the list was full.
  uint64_t known_end() const { return known_end_; }

 private:
  struct Entry {
    uint64_t start, end_and_state;  // the lowest bit of the end: written
  };
  static uint64_t end_of(const Entry& e) { return e.end_and_state & ~uint64_t{1}; }
  bool add(const PageRange& found);
  long read_marks(int pagemap, bool use_scan, const format::Range& r);

  SideMemory memory_;
  Entry* list_ = nullptr;
  uint64_t capacity_ = 0, count_ = 0, known_end_ = 0;
};

}  // namespace cr::capture
