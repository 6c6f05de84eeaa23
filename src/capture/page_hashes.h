// SPDX-License-Identifier: MIT
// page_hashes.h - what pages looked like when they were last copied (--track=hash): for each an
// XXH3-64 of the bytes of its newest copy, and when that was.
// Invariant: an entry is made only of bytes that are in staging, or, by the same hash, in the copy
// before; a page without an entry, or with one of an older time than asked for, is unknown.
// Time is a stamp: of checkpoint number n the early copies have 2n and those of the stop 2n + 1.
// Every page that is present in the stop gets 2n + 1, so a page that went away and came back is not
// taken for the one of a checkpoint that does not have it.
// Context: reserve N; the rest N and S (control thread). Doc: docs/ARCHITECTURE.md, "Back ends".
#pragma once

#include "base/base.h"
#include "capture/side_memory.h"

namespace cr::capture {

class PageHashes {
 public:
  // Pages are looked at through a window of this size, a copy that nobody changes.
  static constexpr uint64_t kWindowBytes = 64 * 1024;

  // Room for so many pages, and for half as many more if they lie close together. Forgets what is
  // older than least_stamp. At most 1/16 of their size is used, or kLeastBytes. 0 or -errno: then
  // there is as much room as before.
  long reserve(uint64_t pages, uint64_t least_stamp);
  // Nothing is known any more; the memory is given back.
  void clear();
  bool ready() const { return memory_.bytes != 0; }
  uint8_t* window() const { return memory_.data; }
  int window_fd() const { return memory_.fd; }  // at its beginning

  // Had the newest copy of the page, if it was made at least_stamp or later, this hash?
  bool is_same(uint64_t addr, uint64_t hash, uint64_t least_stamp);
  // A page for which there is no room stays unknown; an old entry is never left.
  void note(uint64_t addr, uint64_t hash, uint64_t stamp);
  // There is a newer copy, of which nothing is known.
  void forget(uint64_t start, uint64_t end);

 private:
  static constexpr uint64_t kGroupPages = 16;
  static constexpr uint64_t kGroupBytes = kGroupPages * kPageSize;
  static constexpr uint64_t kLeastBytes = 256 * 1024;
  // Neighbours lie together: one miss of the cache for 16 pages.
  struct Group {
    uint64_t key;  // address + 1; 0: none
    uint64_t hash[kGroupPages], stamp[kGroupPages];
  };
  static uint64_t key_of(uint64_t addr) { return addr / kGroupBytes * kGroupBytes + 1; }
  static uint64_t index_in(uint64_t addr) { return addr / kPageSize % kGroupPages; }
  static Group* place(Group* groups, uint64_t capacity, uint64_t key);
  Group* find(uint64_t addr);
  Group* find_or_make(uint64_t addr);
  bool is_live(const Group& g, uint64_t least_stamp) const;

  SideMemory memory_;
  Group* groups_ = nullptr;
  uint64_t capacity_ = 0, used_ = 0;
  Group* last_ = nullptr;  // found
};

}  // namespace cr::capture
