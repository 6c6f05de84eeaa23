// SPDX-License-Identifier: MIT
// process_stopped.cc - signal dispositions, interval timers and prctl state of the process.
// Invariant: only reads. Context: S.
#include <sys/prctl.h>

#include "capture/capture.h"
#include "rawsys/rawsys.h"

namespace cr::capture {

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
  return 0;
}

}  // namespace cr::capture
