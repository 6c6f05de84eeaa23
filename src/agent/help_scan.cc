// SPDX-License-Identifier: MIT
// help_scan.cc - see help_scan.h. Invariant, context: as there.
#include "agent/help_scan.h"

#include <algorithm>

#include "base/base.h"
#include "rawsys/rawsys.h"

namespace cr::agent {

void ScanHelper::help(int pagemap, format::ScanHelp& scan) {
  uint64_t job = 0;
  for (;;) {
    const uint64_t i = format::claim_piece(scan, /*at_front=*/false, &job);
    if (i == format::kNoPiece) return;
    if (job != job_) used_ = 0;
    job_ = job;
    rawsys::PmScanArg arg = rawsys::scan_of_differences(scan.piece_start(i), scan.piece_end(i));
    uint64_t count = 0;
    while (arg.start < arg.end) {
      arg.vec = reinterpret_cast<uint64_t>(scan.regions + used_);
      arg.vec_len = std::min(rawsys::kFewRegions, format::kScanRegions - used_);
      const long n =
          arg.vec_len > 0 ? rawsys::sys(__NR_ioctl, pagemap, rawsys::kPagemapScan, &arg) : 0;
      if (n < 0 || (n == 0 && arg.walk_end <= arg.start)) break;
      count += static_cast<uint64_t>(n);
      used_ += static_cast<uint64_t>(n);
      arg.start = arg.walk_end;
    }
    format::ScanPiece& p = scan.pieces[i];
    p.first = used_ - count;
    p.count = count;
    p.next = arg.start;
    __atomic_store_n(&p.job, job, __ATOMIC_RELEASE);
  }
}

}  // namespace cr::agent
