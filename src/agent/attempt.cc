// SPDX-License-Identifier: MIT
// attempt.cc - what became of one attempt at a checkpoint: measured, and kept in the history.
// Invariant: never changes whether the attempt succeeded.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "What a checkpoint costs".
#include <math.h>
#include <sched.h>
#include <time.h>

#include <algorithm>

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

// The program has attached: what was measured before says nothing of its next checkpoints.
void Session::begin_measuring() {
  meter_.reset();
  whole_in_row_ = 0;
  last_end_ns_ = rawsys::now_ns();
}

void Session::begin_attempt() {
  attempts_++;
  attempt_ = {};
  attempt_.epoch = epoch_;
  attempt_.sequence = sequence_ + 1;
  attempt_.attempt = attempts_;
  attempt_.realtime_ns = rawsys::clock_ns(CLOCK_REALTIME);
  attempt_begin_ns_ = rawsys::now_ns();
  effort_ = {};
  effort_.processors = processors_of(pid_);
  cpu_begin_ns_ = agent_cpu_ns();
  cpu_in_stop_ns_ = 0;
  tracker_ = format::kTrackerUnknown;
}

// To be called when `result` is known and the program runs on.
void Session::end_attempt(const Trouble& result) {
  const uint64_t now = rawsys::now_ns();
  format::HistoryRecord& a = attempt_;
  effort_.pause_ns = a.pause_ns;
  effort_.precopy_ns = a.precopy_ns;
  effort_.agent_ns = agent_cpu_ns() - cpu_begin_ns_ - cpu_in_stop_ns_;
  a.whole_ns = now - attempt_begin_ns_;
  a.cost_ns = cost_of(effort_);
  a.staged_bytes = staged_bytes_;
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
  adapt_interval(!result.bad());
  a.interval_ns = static_cast<uint64_t>(options_.interval_seconds * 1e9);
  a.flags |= options_.policy.automatic ? format::kHistoryAutomatic : 0;
  if (is_member_) return;  // the first process's is that of all
  const std::string text = history_.append(a);
  if (!text.empty()) notice_ = text;
}

void Session::note_level(int level, uint64_t epoch, uint64_t sequence, uint64_t window_ns) {
  if (is_member_) return;
  history_.note_level(level, epoch, sequence, window_ns);
}

void Session::describe(format::Details* d) const {
  d->kind = format::kMessageDetails;
  d->state = !attached() ? format::kSessionStarting
             : frozen_   ? format::kSessionFrozen
                         : format::kSessionRunning;
  d->pid = pid_;
  d->tracker = tracker_;
  d->interval_automatic = options_.policy.automatic ? 1 : 0;
  d->level = options_.durable ? format::kLevelPower : format::kLevelCrash;
  d->epoch = epoch_;
  d->sequence = sequence_;
  d->attempts = attempts_;
  d->failures = failures_;
  d->interval_seconds = options_.interval_seconds;
  d->overhead_percent = meter_.share() * 100;
  rawsys::str_copy(d->last_error, channel()->last_error, sizeof(d->last_error));
  d->levels = channel()->levels;
}

void Session::tell_progress(format::ProgressPhase phase, uint64_t done, uint64_t total) {
  constexpr uint64_t kEveryNs = 100000000;
  if (!progress_) return;
  const uint64_t now = rawsys::now_ns();
  if (phase == told_phase_ && now - told_ns_ < kEveryNs && done != total) return;
  told_phase_ = phase;
  told_ns_ = now;
  progress_(phase, done, total);
}

// The control thread is at work: how much has it copied? Its table of runs grows under our eyes.
void Session::tell_copied() {
  const uint32_t command = channel()->command;
  if (!progress_ || (command != format::kCommandCapture && command != format::kCommandEarly))
    return;
  const auto* table = reinterpret_cast<const format::Run*>(channel_map_.data() + runs_off_);
  uint64_t at =
      std::min(__atomic_load_n(&channel()->run_count, __ATOMIC_ACQUIRE), channel()->runs_cap);
  while (at > 0 && table[at - 1].staging_page == format::kPagesSame) at--;
  const uint64_t pages =
      at > 0 ? table[at - 1].staging_page + (table[at - 1].pages & ~format::kRunToCopy) : 0;
  tell_progress(format::kPhaseCopying, pages * kPageSize, 0);
}

void Session::adapt_interval(bool whole) {
  const IntervalPolicy& policy = options_.policy;
  if (!policy.automatic) return;
  whole_in_row_ = whole ? whole_in_row_ + 1 : 0;
  if (whole) {
    const bool first = whole_in_row_ <= 2;  // each buffer is written as a whole once
    chooser_.add({static_cast<double>(attempt_.cost_ns) / 1e9,
                  static_cast<double>(attempt_.whole_ns) / 1e9, first});
  }
  options_.interval_seconds = chooser_.next(policy, options_.interval_seconds);
}

namespace {

uint32_t milliseconds(double seconds) {
  return static_cast<uint32_t>(std::min(4e9, seconds * 1000 + 0.5));
}

}  // namespace

// What a session restored from this checkpoint shall know; the interval itself is with the process.
void Session::describe_interval(format::SuperBlock* super) const {
  const IntervalPolicy& p = options_.policy;
  (keeper_ != nullptr ? *keeper_ : files_).describe(super);
  super->tracker = tracker_;
  super->interval_mode = p.automatic ? format::kIntervalAutomatic : format::kIntervalFixed;
  if (!p.automatic) return;
  super->overhead_ppm = static_cast<uint32_t>(lround(p.overhead * 1e6));
  super->min_interval_ms = milliseconds(p.least);
  super->max_interval_ms = milliseconds(p.most);
  super->mtbf_ms = static_cast<uint64_t>(llround(p.mtbf * 1000));
}

void Session::adopt_interval(const format::ImageView& image) {
  const format::SuperBlock& super = image.super;
  options_.interval_seconds = image.process->interval_ms / 1000.0;
  IntervalPolicy& p = options_.policy;
  options_.interval_of_image = false;  // from here on it is the session's
  p = {};
  p.automatic = super.interval_mode == format::kIntervalAutomatic;
  if (!p.automatic) return;
  p.overhead = std::min(super.overhead_ppm / 1e6, 1.0);
  p.mtbf = static_cast<double>(super.mtbf_ms) / 1000;
  p.least = super.min_interval_ms / 1000.0;
  p.most = super.max_interval_ms / 1000.0;
}

}  // namespace cr::agent
