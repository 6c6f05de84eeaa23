// SPDX-License-Identifier: MIT
// sysv_segment.h - System V shared memory segments: attached here, found again, made again.
// Invariant: what is attached is detached again, so that nobody sees a count that is too high.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Shared memory".
#pragma once

#include <stdint.h>
#include <sys/shm.h>

#include <string>
#include <utility>

#include "agent/world.h"
#include "format/image.h"

namespace cr::agent {

class SysvAttachment {
 public:
  SysvAttachment() = default;
  SysvAttachment(SysvAttachment&& o) noexcept : data_(std::exchange(o.data_, nullptr)) {}
  SysvAttachment& operator=(SysvAttachment&& o) noexcept {
    if (this != &o) {
      reset();
      data_ = std::exchange(o.data_, nullptr);
    }
    return *this;
  }
  ~SysvAttachment() { reset(); }
  // flags: as shmat. Empty: errno says why.
  static SysvAttachment attach(int id, int flags);
  void reset();
  uint8_t* data() const { return data_; }
  // By the kernel: where memory is short a fault is -errno and no signal.
  long read(uint64_t off, void* to, uint64_t bytes) const;
  long write(uint64_t off, const void* from, uint64_t bytes) const;
  explicit operator bool() const { return data_ != nullptr; }

 private:
  uint8_t* data_ = nullptr;
};

// Is the segment of the image still the one with its id?
bool is_segment_there(const format::ObjectRecord& o);

// A segment for a restored program.
struct SysvSegment {
  int id = -1;
  bool fresh = false;  // made here: nobody else has seen it
  SysvAttachment attached;
};

struct SegmentWanted {
  bool live;       // also one that was removed is still there (restore())
  bool read_only;  // one that is there shall stay as it is
};
// Finds the segment of the image, which outlives its program unless it was removed, or makes it
// anew with its number. ret_warning: what the program may notice.
Trouble find_or_make_segment(const format::ObjectRecord& o, const std::string& name,
                             const SegmentWanted& wanted, SysvSegment* ret,
                             std::string* ret_warning);

}  // namespace cr::agent
