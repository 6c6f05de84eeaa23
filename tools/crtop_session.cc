// SPDX-License-Identifier: MIT
// crtop_session.cc - see crtop_session.h. Invariant: as there. Context: N.
#include "tools/crtop_session.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "agent/history.h"
#include "tools/cli_common.h"

namespace cr::tools {
namespace {

constexpr int kPatienceMs = 300;
constexpr size_t kRecent = 120, kForRates = 20;

// Does a control thread hold the lock? Looked up, not tried: a lock of ours could be taken for one.
bool program_is_there(const std::string& dir) {
  struct stat st;
  if (stat((dir + "/" + format::kProgramLockName).c_str(), &st) != 0) return false;
  char id[64];
  snprintf(id, sizeof(id), " %02x:%02x:%lu ", major(st.st_dev), minor(st.st_dev),
           static_cast<unsigned long>(st.st_ino));
  auto locks = os::read_file("/proc/locks");
  return locks && locks->find(id) != std::string::npos;
}

void add_history(const std::string& dir, View* v) {
  auto all = agent::load_history(dir);
  if (!all || all->empty()) return;
  const size_t skip = all->size() > kRecent ? all->size() - kRecent : 0;
  v->recent.assign(all->begin() + static_cast<ptrdiff_t>(skip), all->end());
  v->failures = static_cast<uint64_t>(
      std::ranges::count_if(v->recent, [](const auto& r) { return r.error_code != 0; }));
  const format::HistoryRecord& newest = v->recent.back();
  v->realtime_ns = newest.realtime_ns;
  // From the beginning of the first to that of the last: what they brought, but for the first's.
  const size_t n = std::min(kForRates, v->recent.size());
  const format::HistoryRecord* first = &v->recent[v->recent.size() - n];
  uint64_t changed = 0, written = 0;
  for (size_t i = 1; i < n; i++) {
    changed += first[i].staged_bytes;
    written += first[i].written_bytes;
  }
  if (newest.realtime_ns > first->realtime_ns) {
    const double seconds = static_cast<double>(newest.realtime_ns - first->realtime_ns) / 1e9;
    v->changed_rate = static_cast<double>(changed) / seconds;
    v->written_rate = static_cast<double>(written) / seconds;
  }
}

// The history knows what the agent is too busy to say, or has taken with it.
void take_from_history(View* v) {
  if (v->recent.empty()) return;
  const format::HistoryRecord& r = v->recent.back();
  v->epoch = r.epoch;
  v->sequence = r.error_code == 0 ? r.sequence : r.sequence - 1;
  v->interval = static_cast<double>(r.interval_ns) / 1e9;
  v->automatic = (r.flags & format::kHistoryAutomatic) != 0;
  v->overhead_percent = r.overhead_ppm / 1e4;
  v->tracker = tracker_word(r.tracker);
  v->level = level_word(r.level);
  v->last_error = r.error_text;
}

template <size_t n>
std::string text_of(const char (&field)[n]) {
  return {field, strnlen(field, n)};
}

void add_levels(const format::Levels& l, View* v) {
  v->protect = text_of(l.protect);
  v->holders = text_of(l.holders);
  v->flush_dir = text_of(l.flush_dir);
  v->trouble = text_of(l.trouble);
  v->safe = l.safe_sequence;
  v->flushed = l.flushed_sequence;
  v->window_ns = l.window_ns;
  v->is_kept = l.is_kept != 0;
}

}  // namespace

bool was_session(const std::string& dir) {
  for (const char* name :
       {"image.0", "image.1", format::kHistoryFileName, format::kAgentSocketName}) {
    if (access((dir + "/" + name).c_str(), F_OK) == 0) return true;
  }
  return false;
}

// false: no agent is there. ret_busy: it is, and has not answered yet.
bool SessionWatch::ask(format::Details* ret, bool* ret_busy) {
  *ret_busy = false;
  for (int tries = 0; tries < 2; tries++) {
    if (!agent_) {
      agent_ = os::Fd(connect_to_agent(dir_));
      asked_ = false;
      if (!agent_) return false;
    }
    format::Request q{};
    q.kind = format::kMessageAskDetails;
    if (!asked_)
      asked_ = send(agent_.get(), &q, sizeof(q), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(q);
    pollfd p{agent_.get(), POLLIN, 0};
    if (asked_ && poll(&p, 1, kPatienceMs) == 0) {
      *ret_busy = true;
      return true;
    }
    const ssize_t n = asked_ ? recv(agent_.get(), ret, sizeof(*ret), MSG_DONTWAIT) : -1;
    if (n == sizeof(*ret) && ret->kind == format::kMessageDetails) {
      asked_ = false;
      return true;
    }
    if (n < 0 && asked_ && (errno == EAGAIN || errno == EINTR)) {
      *ret_busy = true;
      return true;
    }
    agent_.reset();  // it ended, or is of an earlier version: once more
  }
  return false;
}

void SessionWatch::add_dead(View* v) {
  take_from_history(v);
  v->state = program_is_there(dir_)                            ? "running without an agent"
             : access((dir_ + "/finished").c_str(), F_OK) == 0 ? "ended by itself"
                                                               : "not running";
  if (program_.empty()) {
    std::unique_ptr<store::LoadedImage> image;
    if (!agent::choose_image(dir_, 0, &image).bad()) {
      const format::ImageView& i = image->view;
      const auto words = i.blob(i.process->cmdline);
      program_.assign(reinterpret_cast<const char*>(words.data()), words.size());
      while (!program_.empty() && program_.back() == 0) program_.pop_back();
      std::ranges::replace(program_, '\0', ' ');
      if (v->epoch == 0) v->epoch = i.super.epoch;
      if (v->sequence == 0) v->sequence = i.super.sequence;
      if (v->tracker.empty()) v->tracker = tracker_word(i.super.tracker);
    }
  }
  v->program = program_;
}

View SessionWatch::look() {
  View v;
  v.dir = dir_;
  bool busy = false;
  format::Details d{};
  v.alive = ask(&d, &busy);
  add_history(dir_, &v);
  if (!v.alive) {
    last_ = {};
    add_dead(&v);
    return v;
  }
  program_.clear();
  if (!busy) last_ = d;
  static constexpr const char* kStates[] = {"starting", "running", "frozen"};
  v.state = busy ? "checkpointing" : kStates[std::min<uint32_t>(last_.state, 2)];
  v.program = last_.program;
  v.pid = last_.pid;
  if (last_.kind == 0) {  // busy since we came
    take_from_history(&v);
    return v;
  }
  v.uptime = static_cast<double>(last_.uptime_ns) / 1e9;
  if (!busy && last_.until_next_ns != ~0ull && last_.state == format::kSessionRunning) {
    v.until_next = static_cast<double>(last_.until_next_ns) / 1e9;
  }
  v.epoch = last_.epoch;
  v.sequence = last_.sequence;
  v.interval = last_.interval_seconds;
  v.automatic = last_.interval_automatic != 0;
  v.overhead_percent = last_.overhead_percent;
  v.tracker = tracker_word(last_.tracker);
  v.level = level_word(last_.level);
  add_levels(last_.levels, &v);
  v.last_error.assign(last_.last_error, strnlen(last_.last_error, sizeof(last_.last_error)));
  return v;
}

}  // namespace cr::tools
