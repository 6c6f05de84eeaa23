// SPDX-License-Identifier: MIT
// process_stopped.cc - signal dispositions, interval timers and prctl state of the process.
// Invariant: only reads. Context: S.
#include <errno.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "capture/capture.h"
#include "rawsys/rawsys.h"

namespace cr::capture {
namespace {

// The kernel tells only by giving out what is left.
uint32_t count_protection_keys() {
  constexpr int kAll = 15;  // key 0 is everybody's
  long got[kAll];
  int n = 0;
  while (n < kAll) {
    got[n] = rawsys::sys(__NR_pkey_alloc, 0, 0);
    if (got[n] < 0) break;
    n++;
  }
  for (int i = 0; i < n; i++) rawsys::sys(__NR_pkey_free, got[i]);
  return static_cast<uint32_t>(kAll - n);
}

bool has_protection_keys() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr uint32_t kPkru = 1u << 9;
  return (low & kPkru) != 0;
}

// All that the table may hold is read to where runs will be written; it is nearly always empty.
void read_descriptor_table(format::ChannelHeader& channel) {
  format::Process& p = channel.process;
  constexpr uint64_t kTableBytes = 65536;
  uint64_t first = 0;
  p.descriptor_entries = 0;
  if (rawsys::sys(__NR_modify_ldt, 0, &first, sizeof(first)) <= 0) return;
  auto* room = reinterpret_cast<uint64_t*>(reinterpret_cast<uint8_t*>(&channel) + channel.runs_off);
  const long r = rawsys::sys(__NR_modify_ldt, 0, room, kTableBytes);
  for (uint32_t i = 0; r > 0 && i < static_cast<uint64_t>(r) / sizeof(uint64_t); i++) {
    if (room[i] == 0) continue;
    p.descriptor_entries = i + 1;
    if (i < format::kMostDescriptors) p.descriptors[i] = room[i];
  }
}

}  // namespace

long describe_process(const Stopped&, format::ChannelHeader& channel) {
  format::Process& p = channel.process;
  for (int sig = 1; sig <= 64; sig++) {
    uint64_t raw[4] = {};  // the kernel's struct sigaction: handler, flags, restorer, mask
    const long r = rawsys::sys(__NR_rt_sigaction, sig, nullptr, raw, 8);
    if (r < 0) return r;
    p.sigactions[sig - 1] = {raw[0], raw[1], raw[2], raw[3]};
  }
  for (int which = 0; which < 3; which++) {
    int64_t it[4] = {};  // struct itimerval
    const long r = rawsys::sys(__NR_getitimer, which, it);
    if (r < 0) return r;
    p.itimers[which] = {it[0] * 1000000 + it[1], it[2] * 1000000 + it[3]};
  }
  for (int i = 0; i < 16; i++) {
    uint64_t limit[2] = {};
    const long r = rawsys::sys(__NR_prlimit64, 0, i, nullptr, limit);
    if (r < 0) return r;
    p.rlimits[i] = {limit[0], limit[1]};
  }
  p.brk = static_cast<uint64_t>(rawsys::sys(__NR_brk, 0));
  auto ask = [](int option) {
    const long r = rawsys::sys(__NR_prctl, option, 0, 0, 0, 0);
    return r < 0 ? 0u : static_cast<uint32_t>(r);
  };
  p.dumpable = ask(PR_GET_DUMPABLE);
  p.thp_disabled = ask(PR_GET_THP_DISABLE);
  int subreaper = 0;
  rawsys::sys(__NR_prctl, PR_GET_CHILD_SUBREAPER, &subreaper);
  p.child_subreaper = static_cast<uint32_t>(subreaper);
  constexpr int kGetMdwe = 66, kGetMemoryMerge = 68, kGetRegistrations = 1 << 9;
  p.deny_exec_gain = ask(kGetMdwe);
  p.merge_memory = ask(kGetMemoryMerge);
  const long barriers = rawsys::sys(__NR_membarrier, kGetRegistrations, 0, 0);
  p.membarrier = barriers < 0 ? 0 : static_cast<uint32_t>(barriers);
  p.protection_keys = has_protection_keys() ? count_protection_keys() : 0;
  // Of all threads, and whatever signal their ends send.
  p.childless = rawsys::sys(__NR_waitid, P_ALL, 0, nullptr, WEXITED | WNOHANG | WNOWAIT | __WALL,
                            nullptr) == -ECHILD;
  for (uint64_t& d : p.descriptors) d = 0;
  read_descriptor_table(channel);
  p.monotonic_ns = rawsys::now_ns();
  p.boottime_ns = rawsys::clock_ns(CLOCK_BOOTTIME);
  return 0;
}

}  // namespace cr::capture
