// SPDX-License-Identifier: MIT
// objects.cc - System V segments are attached; files that were mapped shared get their content.
// Invariant: files are changed when everything else has gone well, and from pages that the planner
// has checked. Context: R (docs/contexts.md). Doc: docs/ARCHITECTURE.md, "Shared memory".
#include <errno.h>
#include <fcntl.h>

#include "restorer/restorer.h"

namespace cr::restorer {
namespace {

using format::PlanObjectChange;

constexpr int kAddSeals = 1033;  // F_ADD_SEALS

// No fill goes on any more: the first filler's buffer is free.
uint8_t* buffer_of(const Restore& rs) {
  return rs.at<uint8_t>(rs.plan->fill_area_off + format::kRestorerStackBytes);
}

long write_content(const Restore& rs, const PlanObjectChange& c, int fd) {
  uint8_t* const buffer = buffer_of(rs);
  const bool zero = c.what == format::kObjectChangeZero;
  if (zero) __builtin_memset(buffer, 0, format::kFillBufferBytes);
  for (uint64_t done = 0; done < c.bytes;) {
    const uint64_t left = c.bytes - done;
    const uint64_t n = left < format::kFillBufferBytes ? left : format::kFillBufferBytes;
    long r = zero ? 0 : rawsys::read_all_at(rs.args->image_fd, buffer, n, c.value + done);
    if (r == 0) r = rawsys::write_all_at(fd, buffer, n, c.off + done);
    if (r != 0) return r;
    done += n;
  }
  return 0;
}

}  // namespace

void attach_segment(const Restore& rs, const format::PlanMap& m) {
  long r = 0;
  if (m.how == format::kMapAttach) {
    r = sys(__NR_shmat, m.sysv_id, m.addr, m.flags);
  } else if (m.how == format::kMapHole) {
    r = rawsys::sys_munmap(m.addr, m.bytes);
  }
  if (rawsys::is_error(r)) fail(rs, format::kStepMap, r, m.addr);
}

void change_objects(const Restore& rs) {
  const auto* c = rs.array<PlanObjectChange>(rs.plan->object_changes);
  for (uint64_t i = 0; i < rs.plan->object_changes.count; i++) {
    const int fd = rs.args->extra_fd_base + static_cast<int>(c[i].source);
    const long r = c[i].what == format::kObjectChangeSeal
                       ? sys(__NR_fcntl, fd, kAddSeals, c[i].value)
                       : write_content(rs, c[i], fd);
    if (r < 0) fail(rs, format::kStepFiles, r, rs.plan->file_changes.count + i);
  }
}

}  // namespace cr::restorer
