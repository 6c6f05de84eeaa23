// SPDX-License-Identifier: MIT
// calls.cc - the system calls of a plan: what nobody but the restored process can do to itself.
// Invariant: as restorer.cc. Context: R (docs/contexts.md).
// Doc: docs/ARCHITECTURE.md, "One restore".
#include <signal.h>

#include "format/make_call.h"
#include "format/plan.h"
#include "rawsys/rawsys.h"
#include "restorer/restorer.h"

namespace cr::restorer {
namespace {

uint64_t id_now(const void* context, uint64_t id) {
  const Restore& rs = *static_cast<const Restore*>(context);
  if (static_cast<int32_t>(id) == rs.plan->process.pid) {
    return static_cast<uint64_t>(rawsys::sys_getpid());
  }
  const auto* t = rs.array<format::PlanThread>(rs.plan->threads);
  for (uint64_t i = 0; i < rs.plan->threads.count; i++) {
    if (t[i].record.tid == static_cast<int32_t>(id) && t[i].tid_now != 0) {
      return static_cast<uint64_t>(t[i].tid_now);
    }
  }
  return id;
}

}  // namespace

// Early, because closing a file takes the process's record locks on it away.
void close_received(const Restore& rs) {
  const int socket = rs.args->report_fd;
  sys(__NR_close_range, rs.args->extra_fd_base, socket - 1, 0);
  sys(__NR_close_range, socket + 1, ~0u, 0);
}

void make_calls(const Restore& rs, bool late) {
  const format::PlanArray& list = late ? rs.plan->late_calls : rs.plan->calls;
  const uint64_t data_off = late ? rs.plan->late_data_off : rs.plan->calls_data_off;
  const uint64_t before = late ? rs.plan->calls.count : 0;
  const format::CallSurroundings here{reinterpret_cast<uint64_t>(rs.at<uint8_t>(data_off)), id_now,
                                      &rs};
  auto* c = rs.array<format::Call>(list);
  for (uint64_t i = 0; i < list.count; i++) {
    const long r = format::make_call(c, c[i], here);
    if (r < 0) fail(rs, format::kStepCalls, r, before + i);
  }
}

void adopt_traits(const Restore& rs, const format::PlanThread& t) {
  const format::CallSurroundings here{reinterpret_cast<uint64_t>(rs.at<uint8_t>(t.traits_data_off)),
                                      id_now, &rs};
  auto* c = rs.array<format::Call>(t.traits);
  for (uint64_t i = 0; i < t.traits.count; i++) {
    const long r = format::make_call(c, c[i], here);
    if (r < 0) fail(rs, format::kStepCalls, r, t.traits_name + i);
  }
}

// All others run already, so there is nobody left to tell.
void adopt_filters(const Restore& rs, const format::PlanThread& t) {
  const format::CallSurroundings here{
      reinterpret_cast<uint64_t>(rs.at<uint8_t>(t.filters_data_off)), id_now, &rs};
  auto* c = rs.array<format::Call>(t.filters);
  for (uint64_t i = 0; i < t.filters.count; i++) {
    if (format::make_call(c, c[i], here) < 0) sys(__NR_kill, rawsys::sys_getpid(), SIGKILL);
  }
}

}  // namespace cr::restorer
