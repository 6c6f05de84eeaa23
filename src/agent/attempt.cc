// SPDX-License-Identifier: MIT
// attempt.cc - what became of one attempt at a checkpoint: measured, and kept in the history.
// Invariant: never changes whether the attempt succeeded.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "What a checkpoint costs".
#include <sched.h>
#include <time.h>

#include "agent/session.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

unsigned processors_of(pid_t pid) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (pid == 0 || sched_getaffinity(pid, sizeof(cpus), &cpus) != 0) return 1;
  return static_cast<unsigned>(std::max(1, CPU_COUNT(&cpus)));
}

}  // namespace

uint64_t Session::agent_cpu_ns() { return rawsys::clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

void Session::begin_attempt() {
  attempts_++;
  attempt_ = {};
  attempt_.epoch = epoch_;
  attempt_.sequence = sequence_ + 1;
  attempt_.attempt = attempts_;
  attempt_.realtime_ns = rawsys::clock_ns(CLOCK_REALTIME);
  attempt_begin_ns_ = rawsys::clock_ns(CLOCK_MONOTONIC);
  effort_ = {};
  effort_.processors = processors_of(pid_);
  cpu_begin_ns_ = agent_cpu_ns();
  cpu_in_stop_ns_ = 0;
  tracker_ = format::kTrackerUnknown;
}

// To be called when `result` is known and the program runs on.
void Session::end_attempt(const Trouble& result) {
  const uint64_t now = rawsys::clock_ns(CLOCK_MONOTONIC);
  format::HistoryRecord& a = attempt_;
  effort_.pause_ns = a.pause_ns;
  effort_.precopy_ns = a.precopy_ns;
  effort_.agent_ns = agent_cpu_ns() - cpu_begin_ns_ - cpu_in_stop_ns_;
  a.whole_ns = now - attempt_begin_ns_;
  a.cost_ns = cost_of(effort_);
  a.staged_bytes = staged_bytes_;
  a.interval_ns = static_cast<uint64_t>(options_.interval_seconds * 1e9);
  a.error_code = static_cast<int32_t>(result.error.code);
  a.sys_errno = result.error.sys_errno;
  a.tracker = tracker_;
  a.level = result.bad()       ? format::kLevelNone
            : options_.durable ? format::kLevelPower
                               : format::kLevelCrash;
  rawsys::str_copy(a.error_text, result.text.c_str(), sizeof(a.error_text));
  if (last_end_ns_ != 0) meter_.add(a.cost_ns, now - last_end_ns_);
  last_end_ns_ = now;
  a.overhead_ppm = meter_.ppm();
  const std::string text = history_.append(a);
  if (!text.empty()) notice_ = text;
}

}  // namespace cr::agent
