// SPDX-License-Identifier: MIT
// restore_plan.h - from an image to the steps that bring the process back.
// Invariant: everything that can be known to fail is found here, before anything is started or any
// file is changed.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One restore".
#pragma once

#include <string>
#include <vector>

#include "agent/world.h"
#include "format/image_reader.h"
#include "format/plan.h"
#include "os/fd.h"
#include "store/buffer.h"

namespace cr::agent {

struct PendingFile {  // changes to be made when the process exists
  int fd = -1;        // index into RestorePlan::fds
  bool truncate = false, seek = false;
  uint64_t bytes = 0;
  std::string proc_path;  // opened below /proc/<pid> then
  uint32_t proc_flags = 0;
  uint64_t position = 0;
};

struct RestorePlan {
  std::vector<uint8_t> bytes;  // PlanHeader and what it refers to
  std::vector<os::Fd> fds;     // sent in this order
  std::vector<PendingFile> pending;
  std::string program;  // executable
  std::vector<std::string> argv, environment;
  std::vector<std::string> warnings;
  store::VerifyProgress on_verify;  // in: who is told how far verification is
  format::PlanHeader* header() { return reinterpret_cast<format::PlanHeader*>(bytes.data()); }
};

// image_dir: for unnamed files that need a place. live_pidfd: see open_files().
Trouble make_restore_plan(const store::LoadedImage& image, const std::string& image_dir,
                          int live_pidfd, RestorePlan* ret_plan);

// Truncations and /proc files, once process `pid` exists. Part of taking over, not of planning.
Trouble finish_files(RestorePlan& plan, pid_t pid);

}  // namespace cr::agent
