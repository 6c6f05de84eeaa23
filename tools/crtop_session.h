// SPDX-License-Identifier: MIT
// crtop_session.h - what is known of a session at one moment, from its agent and its files.
// Invariant: one question to the agent is outstanding at most; an agent that is busy with a
// checkpoint is not waited for.
// Context: N.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "format/channel.h"
#include "format/history.h"
#include "os/fd.h"

namespace cr::tools {

struct View {
  std::string dir;
  std::string state;    // "running", "checkpointing", "frozen", "starting", "not running" ...
  bool alive = false;   // an agent is there
  std::string program;  // command line; "" if not known
  int pid = 0;          // 0: not known
  double uptime = -1;   // seconds; < 0: not known
  double until_next = -1;
  uint64_t epoch = 0, sequence = 0;
  uint64_t failures = 0;  // of those in `recent`
  double interval = 0;
  bool automatic = false;
  double overhead_percent = 0;
  std::string tracker, level, last_error;
  // Beyond the image directory; of a session that is not protected, `protect` is "".
  std::string protect, holders, flush_dir, trouble;
  uint64_t safe = 0, flushed = 0, window_ns = 0;
  bool is_kept = false;
  std::vector<format::HistoryRecord> recent;  // oldest first
  uint64_t realtime_ns = 0;                   // of the newest attempt, 0: none
  double changed_rate = 0, written_rate = 0;  // bytes in a second
};

class SessionWatch {
 public:
  explicit SessionWatch(std::string dir) : dir_(std::move(dir)) {}
  View look();

 private:
  bool ask(format::Details* ret, bool* ret_busy);
  void add_dead(View* view);

  std::string dir_;
  os::Fd agent_;
  bool asked_ = false;
  format::Details last_{};  // answer
  std::string program_;     // of a session that is not running, from its image
};

// Has the directory anything of a session?
bool was_session(const std::string& dir);

}  // namespace cr::tools
