// SPDX-License-Identifier: MIT
// restorer.h - what the parts of the restorer share.
// Invariant: as restorer.cc. Context: R (docs/contexts.md).
#pragma once

#include <linux/sched.h>

#include "format/plan.h"
#include "rawsys/rawsys.h"

extern "C" long cr_restorer_clone3(void* clone_args, size_t size, void (*fn)(void*), void* arg);

namespace cr::restorer {

using rawsys::sys;

constexpr uint64_t kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

struct Restore {
  const format::RestorerArgs* args;
  format::PlanHeader* plan;

  template <typename T>
  T* at(uint64_t off) const {
    return reinterpret_cast<T*>(reinterpret_cast<uint8_t*>(plan) + off);
  }
  template <typename T>
  T* array(const format::PlanArray& a) const {
    return at<T>(a.off);
  }
};

// Tells the agent which step failed and where, and ends the process. slot: of a damaged page.
[[noreturn]] void fail(const Restore& rs, format::RestoreStep step, long error, uint64_t addr,
                       uint64_t slot = 0);

// Fills the mapped segments from the image with all cores, and checks each page as it comes.
void fill_memory(const Restore& rs);

}  // namespace cr::restorer
