// SPDX-License-Identifier: MIT
// rollback_recipes.cc - see rollback.h: descriptors and timers that are made anew.
// Invariant: as there. Context: N (agent).
#include "agent/rollback.h"

#include "agent/posix_timers.h"

namespace cr::agent {

// All that are there now are deleted, and what they have sent is taken back.
std::string Rollback::plan_posix_timers() {
  std::vector<format::PosixTimerRecord> now;
  const Trouble bad = list_posix_timers(s_.pid_, 1, &now);
  if (bad.bad()) return bad.text;
  const auto then = image_->view.posix_timers;
  if (!then.empty() && !timer_ids_can_be_chosen()) {
    return "POSIX timers cannot choose their ids before Linux 6.15";
  }
  const auto flush = [&](const format::PosixTimerRecord& t) {
    if (t.signal > 0) flush_ |= uint64_t{1} << (t.signal - 1);
  };
  for (const format::PosixTimerRecord& t : now) {
    timers_.push_back(t.id);
    flush(t);
  }
  for (const format::PosixTimerRecord& t : then) flush(t);
  return "";
}

uint64_t Rollback::put_recipe(const Recipe& recipe) {
  Calls calls = recipe.calls();
  const uint64_t data = address(put(recipe.bytes().data(), recipe.bytes().size()));
  for (format::Call& c : calls) {
    for (uint32_t i = 0; i < 6; i++) {
      const uint32_t shift = i * format::kArgKindBits;
      if ((c.arg_kinds >> shift & 0xf) != format::kArgData) continue;
      c.args[i] += data;
      c.arg_kinds &= ~(0xfu << shift);
    }
  }
  return put_calls(calls);
}

void Rollback::fill_in_ids(uint64_t list) {
  const auto now = [&](uint64_t then) -> uint64_t {
    const auto id = static_cast<int32_t>(then);
    if (id == image_->view.process->pid) return static_cast<uint64_t>(s_.hello_.pid);
    for (const Pair& p : threads_) {
      const Thread* t = p.record->tid == id && p.tid != 0 ? thread(p.tid) : nullptr;
      if (t != nullptr) return static_cast<uint64_t>(t->leader ? s_.hello_.pid : t->inner_tid);
    }
    return then;
  };
  for (uint64_t n = 0; n < list_at(list)->count; n++) {
    format::Call& c = calls_at(list)[n];
    for (uint32_t i = 0; i < 6; i++) {
      const uint32_t shift = i * format::kArgKindBits;
      if ((c.arg_kinds >> shift & 0xf) != format::kArgId) continue;
      c.args[i] = now(c.args[i]);
      c.arg_kinds &= ~(0xfu << shift);
    }
  }
}

std::string Rollback::furnish() {
  for (const bool late : {false, true}) {
    const uint64_t list = late ? list_late_ : list_early_;
    const Recipe& recipe = late ? recipes_.late : recipes_.early;
    if (recipe.empty()) continue;
    fill_in_ids(list);
    const std::string why = thread_calls(*thread(carrier_), list);
    const uint32_t failed = list_at(list)->failed;
    if (!why.empty()) return failed == 0 ? why : recipe.whats()[failed - 1] + ": " + why;
  }
  return "";
}

}  // namespace cr::agent
