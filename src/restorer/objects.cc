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

static void change_objects(const Restore& rs) {
  const auto* c = rs.array<PlanObjectChange>(rs.plan->object_changes);
  for (uint64_t i = 0; i < rs.plan->object_changes.count; i++) {
    const int fd = rs.args->extra_fd_base + static_cast<int>(c[i].source);
    long r = 0;
    if (c[i].what == format::kObjectChangeSeal) {
      r = sys(__NR_fcntl, fd, kAddSeals, c[i].value);
    } else if (c[i].what == format::kObjectChangeSize) {
      r = sys(__NR_ftruncate, fd, c[i].value);
    } else {
      r = write_content(rs, c[i], fd);
    }
    if (r < 0) fail(rs, format::kStepFiles, r, rs.plan->file_changes.count + i);
  }
}

static void changer_main(void* arg) {
  auto* const c = static_cast<ObjectChanger*>(arg);
  while (__atomic_load_n(&c->go, __ATOMIC_ACQUIRE) == 0) {
    rawsys::sys_futex(&c->go, FUTEX_WAIT_PRIVATE, 0);
  }
  change_objects(*c->rs);
  rawsys::sys_exit_thread(0);
}

void start_changer(const Restore& rs, ObjectChanger* c) {
  *c = {&rs, 0, 0};
  if (rs.plan->object_changes.count == 0) return;
  clone_args ca{};
  ca.flags = (kThreadFlags & ~CLONE_FILES) | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  ca.parent_tid = ca.child_tid = reinterpret_cast<uint64_t>(&c->tid);
  ca.stack = reinterpret_cast<uint64_t>(rs.at<uint8_t>(rs.plan->fill_area_off));
  ca.stack_size = format::kRestorerStackBytes;
  const long r = cr_restorer_clone3(&ca, sizeof(ca), changer_main, c);
  if (r < 0) fail(rs, format::kStepFiles, r, rs.plan->file_changes.count);
}

void finish_changer(ObjectChanger* c) {
  __atomic_store_n(&c->go, 1u, __ATOMIC_RELEASE);
  rawsys::sys_futex(&c->go, FUTEX_WAKE_PRIVATE, 1);
  for (int32_t tid; (tid = __atomic_load_n(&c->tid, __ATOMIC_ACQUIRE)) != 0;) {
    rawsys::sys_futex(&c->tid, FUTEX_WAIT, static_cast<uint32_t>(tid));
  }
}

}  // namespace cr::restorer
