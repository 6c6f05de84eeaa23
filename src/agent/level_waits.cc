// SPDX-License-Identifier: MIT
// level_waits.cc - see level_waits.h. Invariant: as there. Context: N (agent).
#include "agent/level_waits.h"

#include <errno.h>

#include <algorithm>

#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

constexpr uint64_t kPatienceNs = 10'000'000'000;  // with a reason that lasts
constexpr uint64_t kAgainNs = 100'000'000;        // with a program that is stopped

int level_of(format::Ask kind) { return kind == format::Ask::kWaitSafe ? 2 : 3; }

Trouble never(const std::string& why) {
  return trouble(Errc::kUnsupported, ENOTSUP, "checkpoint_wait: " + why);
}

}  // namespace

void LevelWaits::add(Session& session, uint64_t id, format::Ask kind,
                     const CheckpointId& checkpoint) {
  if (kind == format::Ask::kWaitFlushed) protector_.flush_anew();
  waits_.push_back({&session, session.attachments(), session.epoch(), id, kind, checkpoint,
                    rawsys::now_ns(), protector_.flush_failures()});
}

// What keeps it has lasted. A flush has been tried for this call, or cannot be.
bool LevelWaits::is_stuck(const Wait& w, const Protector::Standing& s, uint64_t now_ns) const {
  if (s.reached || s.never || s.why.empty() || now_ns < s.since_ns + kPatienceNs) return false;
  return w.kind == format::Ask::kWaitSafe || protector_.flush_failures() > w.flush_failures ||
         now_ns >= w.begin_ns + kPatienceNs;
}

bool LevelWaits::refuse(Session& session, uint64_t id, format::Ask kind) {
  const Protector::Standing s = protector_.standing(level_of(kind), {});
  if (s.never) session.answer(id, kind, never(s.why));
  return s.never;
}

// After an exec or a rollback the same number is another request's.
bool LevelWaits::is_current(const Wait& w) const {
  return is_there_(w.session) && w.session->attached() &&
         w.session->attachments() == w.attachments && w.session->epoch() == w.epoch;
}

// true: it has been.
bool LevelWaits::answer(const Wait& w, uint64_t* next_ns) {
  const int level = level_of(w.kind);
  const uint64_t now = rawsys::now_ns();
  const auto again_at = [&](uint64_t ns) { *next_ns = std::min(*next_ns, ns); };
  const Protector::Standing s = protector_.standing(level, w.checkpoint);
  const bool stuck = is_stuck(w, s, now);
  if (!s.reached && !s.never && !stuck) {
    if (level == 3) protector_.flush(w.checkpoint);
    for (const uint64_t end : {s.since_ns + kPatienceNs, w.begin_ns + kPatienceNs}) {
      if (!s.why.empty() && end > now) again_at(end);
    }
    again_at(std::max(protector_.look_for_life(), now + kAgainNs));
    return false;
  }
  if (!w.session->takes_answers()) {
    again_at(now + kAgainNs);
    return false;
  }
  Trouble result;
  if (s.never) result = never(s.why);
  if (stuck) {
    result =
        trouble(Errc::kSystem, level == 2 ? EHOSTUNREACH : EIO,
                "checkpoint " + std::to_string(w.checkpoint.sequence) +
                    (level == 2 ? " is not on enough other nodes: " : " is not flushed: ") + s.why);
  }
  w.session->answer(w.id, w.kind, result);
  return true;
}

uint64_t LevelWaits::settle() {
  uint64_t next_ns = ~uint64_t{0};
  std::erase_if(waits_, [&](const Wait& w) { return !is_current(w) || answer(w, &next_ns); });
  return next_ns;
}

}  // namespace cr::agent
