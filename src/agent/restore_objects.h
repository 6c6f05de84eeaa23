// SPDX-License-Identifier: MIT
// restore_objects.h - memory and files that were shared, as a restored program gets them.
// Invariant: what is there already is changed by nobody before every page has proved right, and
// not here: changes are listed in the plan, and made by the restorer, or by finish(). What was made
// here goes again if the program is not restored.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Shared memory".
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "agent/restore_plan.h"
#include "agent/sysv_segment.h"
#include "format/plan.h"

namespace cr::agent {

class ObjectMaker {
 public:
  // live: the program still runs, and may write to what it shares until it begins anew.
  ObjectMaker(const store::LoadedImage& loaded, const std::string& image_dir,
              const PlanOptions& options, RestorePlan& plan)
      : loaded_(loaded),
        image_(loaded.view),
        dir_(image_dir),
        live_(options.live_pidfd >= 0),
        shared_(options.shared),
        plan_(plan) {}

  // Opens or makes every object; the content is still to come.
  Trouble prepare();
  // All pages of the image have proved right.
  Trouble fill();
  // How the segment, which is of an object, is mapped. ret: in the order in which it is done.
  Trouble map(const format::SegmentRecord& s, std::vector<format::PlanMap>* ret);
  Trouble open_descriptor(const format::FileRecord& f, os::Fd* ret);
  uint64_t fresh_bytes() const { return fresh_bytes_; }

 private:
  struct Made {
    os::Fd fd;            // of all but System V segments
    bool fresh = false;   // nobody else has seen it
    bool filled = false;  // by another process of the tree
    bool given = false;   // its description is the program's
    uint64_t bytes_now = 0;
    int segment = -1;                            // System V: index in plan.segments
    int writing_index = -1, reading_index = -1;  // in plan.fds
    std::vector<uint64_t> attached;              // addresses of segments that are taken care of
  };
  std::string name(const format::ObjectRecord& o) const { return image_.string(o.name); }
  Trouble failed(const format::ObjectRecord& o, const std::string& what, int error) const;
  Trouble make(const format::ObjectRecord& o, Made& m);
  Trouble make_or_share(const format::ObjectRecord& o, Made& m);
  Trouble make_memfd(const format::ObjectRecord& o, Made& m);
  Trouble make_unnamed(const format::ObjectRecord& o, Made& m);
  Trouble open_named(const format::ObjectRecord& o, Made& m);
  Trouble make_again(const format::ObjectRecord& o, Made& m);
  Trouble share_segment(const format::ObjectRecord& o, int id, Made& m);
  Trouble make_segment(const format::ObjectRecord& o, Made& m);
  Trouble set_size(const format::ObjectRecord& o, Made& m);
  Trouble check_size(const format::ObjectRecord& o, const Made& m) const;
  Trouble fill_fresh(const format::ObjectRecord& o, Made& m);
  Trouble fill_attached(const format::ObjectRecord& o, Made& m);
  Trouble list_changes(const format::ObjectRecord& o, Made& m);
  bool is_there(const Made& m, uint64_t off, const uint8_t* want, uint64_t bytes) const;
  void add_change(const format::ObjectRecord& o, int source, uint64_t off, uint64_t bytes,
                  uint64_t image_off);
  Trouble map_attached(const format::SegmentRecord& s, Made& m, std::vector<format::PlanMap>* ret);
  Trouble index_of(Made& m, const format::ObjectRecord& o, bool writing, int* ret);
  uint32_t number(const format::ObjectRecord& o) const {
    return static_cast<uint32_t>(&o - image_.objects.data());
  }

  const store::LoadedImage& loaded_;
  const format::ImageView& image_;
  const std::string& dir_;
  bool live_;
  SharedMakings* const shared_;
  RestorePlan& plan_;
  std::vector<Made> made_;
  uint64_t fresh_bytes_ = 0;
};

// System V segments that outlive their program get their content back, and are let go: before the
// program runs, and when nothing else can fail.
Trouble finish_segments(RestorePlan& plan, const store::LoadedImage& image);

}  // namespace cr::agent
