// SPDX-License-Identifier: MIT
// help_copy.cc - see help_copy.h. Invariant, context: as there.
#include "agent/help_copy.h"

#include <errno.h>
#include <sys/uio.h>

#include <algorithm>

#include "base/base.h"
#include "os/fault.h"

namespace cr::agent {
namespace {

// Where in this process and in the program's a run is. False: not to be copied, or nonsense.
bool place(const format::Run& run, uint64_t flagged, const format::ChannelHeader& channel,
           uint8_t* staging, uint64_t staging_pages, iovec* ret_here, iovec* ret_there) {
  const uint64_t pages = flagged & ~format::kRunToCopy, at = run.staging_page;
  if (flagged == pages || at < channel.staging_first || at > staging_pages ||
      pages > staging_pages - at) {
    return false;
  }
  *ret_here = {staging + at * kPageSize, pages * kPageSize};
  *ret_there = {reinterpret_cast<void*>(run.addr), pages * kPageSize};
  return true;
}

}  // namespace

bool help_copy(pid_t tid, format::ChannelHeader& channel, format::Run* runs, uint8_t* staging,
               uint64_t staging_pages) {
  for (;;) {
    const uint64_t count =
        std::min(__atomic_load_n(&channel.copy_count, __ATOMIC_ACQUIRE), channel.runs_cap);
    if (count == 0) return true;
    const uint64_t first =
        __atomic_fetch_add(&channel.copy_next, format::kRunsAtOnce, __ATOMIC_RELAXED);
    if (first >= count) return true;
    os::fault_point(os::FaultPoint::kHelping);
    const uint64_t end = std::min(first + format::kRunsAtOnce, count);
    iovec here[format::kRunsAtOnce], there[format::kRunsAtOnce];
    format::Run* claimed[format::kRunsAtOnce];
    size_t n = 0, bytes = 0;
    for (uint64_t i = first; i < end; i++) {
      const uint64_t flagged = __atomic_load_n(&runs[i].pages, __ATOMIC_RELAXED);
      if (!place(runs[i], flagged, channel, staging, staging_pages, &here[n], &there[n])) continue;
      bytes += here[n].iov_len;
      claimed[n++] = &runs[i];
    }
    if (n == 0) continue;
    const ssize_t got = process_vm_readv(tid, here, n, there, n, 0);
    if (got < 0 && (errno == EPERM || errno == ENOSYS)) return false;
    if (got != static_cast<ssize_t>(bytes)) continue;  // all of it, or it counts for nothing
    for (size_t i = 0; i < n; i++) {
      __atomic_store_n(&claimed[i]->pages, here[i].iov_len / kPageSize, __ATOMIC_RELEASE);
    }
  }
}

}  // namespace cr::agent
