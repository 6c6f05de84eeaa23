// SPDX-License-Identifier: MIT
// page_tracker.h - which pages a checkpoint must copy, and where each page of it comes from: copied
// in the stop, copied before it while the program ran, or from the last checkpoint.
// Invariant: a page is only said to be the same if the kernel has counted writes to it since the
// copy that is meant; whatever is uncertain is copied anew.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One checkpoint".
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "agent/address_set.h"
#include "format/channel.h"
#include "store/model.h"

namespace cr::agent {

// The part [from, to) of a run.
format::Run part(const format::Run& run, uint64_t from, uint64_t to);

// Ranges as the control thread answered them, and what it said of them.
struct EarlyPass {
  const format::Range* ranges;
  uint64_t range_count;
  uint64_t cursor_range, cursor_addr;  // how far it came; range_count: through
  AddressSet spoiled;                  // nobody knows what was seen there
  std::vector<format::Run> runs;
  int64_t realtime_ns;  // of its beginning
  // The control thread itself knows of each page whether its newest copy is one of these: what it
  // has not copied may still not be in the last checkpoint.
  bool knows_its_copies;
};

class PageTracker {
 public:
  // The next checkpoint copies every page: nothing is known of an earlier one.
  void forget();
  // A checkpoint begins. tracking: writes can be counted.
  void begin(bool tracking);

  // Of these ranges, which must be copied whole. Cuts ranges in two where only a part must; if that
  // makes more than most_ranges, more is copied.
  void mark_fresh(std::vector<format::Range>& ranges, const store::Model& model,
                  size_t most_ranges) const;
  // Pages were copied while the program ran.
  // is_right: may what that pass has of the mapping of a file be relied on? Else it is copied in
  // the stop.
  using FileCheck =
      std::function<bool(const format::SegmentRecord&, const std::vector<format::Run>&)>;
  void add_early(EarlyPass pass, const store::Model& model, const FileCheck& is_right);
  // Of these nobody knows any more what was written.
  void spoil(const AddressSet& ranges) { unknown_.add(ranges); }

  // In the stop: these ranges were worked through to their end.
  void note_final(const format::Range* ranges, uint64_t count, const store::Model& model);
  // Runs of the stop, ascending, with copies made before the stop in place of kPagesSame, where
  // there are any.
  std::vector<format::Run> resolve(const std::vector<format::Run>& runs);

  // The checkpoint is whole. without: what was left out of it.
  void commit(AddressSet without, int64_t realtime_ns);

  // Between checkpoints: the last one is whole, and writes since it are counted.
  bool is_whole() const { return whole_; }
  // What was left out of it; and mappings of files of which it has the file's own pages only.
  const AddressSet& last_without() const { return last_without_; }
  const std::vector<format::SegmentRecord>& last_file_parts() const { return last_files_.segments; }
  // The last checkpoint can be built upon; that is, the buffer that holds it is needed.
  bool has_basis() const { return has_basis_; }
  bool any_early() const { return !early_.empty(); }
  // The stop will copy a part of the memory only.
  bool knows_most() const { return has_basis_ || !early_.empty(); }

 private:
  struct FileParts {
    std::vector<format::SegmentRecord> segments;  // of these only the file's own pages were there
    int64_t realtime_ns = 0;
  };
  static bool has_file_part(const FileParts& then, const store::Model& model,
                            const format::Range& r);
  static void note_file_parts(const format::Range* ranges, uint64_t count,
                              const store::Model& model, bool only_fresh, FileParts& ret);
  void sort_early();

  bool tracking_ = false;
  bool whole_ = false;      // a checkpoint was committed, and everything since is tracked
  bool has_basis_ = false;  // of the checkpoint under way
  AddressSet last_without_;
  FileParts last_files_, early_files_, final_files_;
  AddressSet unknown_;  // of the checkpoint under way: neither the last one nor a copy has it
  // Newest first; sorted and without overlaps when asked for.
  std::vector<std::vector<format::Run>> early_;
  std::vector<format::Run> sorted_early_;
  size_t next_early_ = 0;
};

}  // namespace cr::agent
