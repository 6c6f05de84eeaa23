// SPDX-License-Identifier: MIT
// help_scan.h - while the program stands still the agent has a processor to spare: it looks for
// written pages from the end of what the control thread looks through from its beginning.
// Invariant: reads only what the kernel tells of the program's pages, and writes only into the
// table; what it has not found out is left to the control thread.
// Context: N (agent), in a stop. Doc: docs/ARCHITECTURE.md, "One checkpoint".
#pragma once

#include "format/scan_help.h"

namespace cr::agent {

class ScanHelper {
 public:
  // Returns when nothing is left to claim. pagemap: of the program.
  void help(int pagemap, format::ScanHelp& scan);

 private:
  uint64_t job_ = 0, used_ = 0;  // regions of the table that are used for that job
};

}  // namespace cr::agent
