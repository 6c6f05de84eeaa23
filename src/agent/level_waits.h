// SPDX-License-Identifier: MIT
// level_waits.h - calls of checkpoint_wait() for levels 2 and 3 that are waiting for crstored.
// Invariant: nobody waits for ever for what does not come about: a reason that lasts is an answer.
// An answer is given to the process, and the life of it, that has asked.
// Context: N (agent). Doc: docs/store.md, "Waiting for a level".
#pragma once

#include <functional>
#include <vector>

#include "agent/protector.h"
#include "agent/session.h"

namespace cr::agent {

class LevelWaits {
 public:
  // is_there: is that session still one of the tree's?
  LevelWaits(Protector& protector, std::function<bool(const Session*)> is_there)
      : protector_(protector), is_there_(std::move(is_there)) {}

  // true: no checkpoint of this session ever gets there, and the request was told so.
  bool refuse(Session& session, uint64_t id, format::Ask kind);
  // Request `id` of that kind is to be answered when the checkpoint has got there.
  void add(Session& session, uint64_t id, format::Ask kind, const CheckpointId& checkpoint);
  // Answers what can be answered. Returns when it is to be called again if nothing happens.
  uint64_t settle();

 private:
  struct Wait {
    Session* session;
    uint64_t attachments, epoch;  // of the session, when it asked
    uint64_t id;
    format::Ask kind;
    CheckpointId checkpoint;
    uint64_t begin_ns, flush_failures;  // when it asked
  };
  bool is_stuck(const Wait& wait, const Protector::Standing& standing, uint64_t now_ns) const;
  bool is_current(const Wait& wait) const;
  bool answer(const Wait& wait, uint64_t* next_ns);

  Protector& protector_;
  std::function<bool(const Session*)> is_there_;
  std::vector<Wait> waits_;  // of one session and kind: in the order of their ids
};

}  // namespace cr::agent
