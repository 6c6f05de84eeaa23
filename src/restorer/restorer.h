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
  int program = -1;  // in the process that fills lazily: a pidfd of the one it fills

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

// Fills the mapped segments from the image with all cores, and checks each page as it comes. Leaves
// the lazy ones to what follows.
void fill_memory(const Restore& rs);

// Reads bytes [off, off + bytes) of the fill to `to` and checks them.
void fetch_pages(const Restore& rs, const format::PlanFill& f, uint64_t off, uint64_t bytes,
                 uint8_t* to);

// When no page is to come any more.
void unmap_checksums(const Restore& rs);

// Shared memory (objects.cc): memory that is attached and not mapped; and what is changed of files
// last of all, by a thread with a descriptor table of its own: it still has the received
// descriptors when this process has closed them, and closing them drops none of this process's
// record locks. The pages have been checked.
struct ObjectChanger {
  const Restore* rs;
  uint32_t go;
  int32_t tid;  // 0: it has ended, or there is nothing to change
};
void attach_segment(const Restore& rs, const format::PlanMap& m);
void start_changer(const Restore& rs, ObjectChanger* ret);
void finish_changer(ObjectChanger* changer);
// All received descriptors and the image, which lie above everything else, but for the socket to
// the agent.
void close_received(const Restore& rs);
// The plan's `calls`, or its `late_calls`.
void make_calls(const Restore& rs, bool late);
// What a thread takes on when it needs no privilege any more, and the filters that come last.
void adopt_traits(const Restore& rs, const format::PlanThread& t);
void adopt_filters(const Restore& rs, const format::PlanThread& t);

// Lazy restores (lazy.cc); without lazy fills these do nothing.
// userfault: with all lazy segments registered. The descriptor is taken over.
void begin_lazy(const Restore& rs, int userfault);
// Before start_filler(): pages that are touched while nobody could bring them.
void bring(const Restore& rs, uint64_t addr, uint64_t bytes);
// Makes the process that brings all others.
void start_filler(const Restore& rs);
inline constexpr uint64_t kLazyEvents =
    1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;  // FORK REMAP REMOVE UNMAP

}  // namespace cr::restorer
