// SPDX-License-Identifier: MIT
// flush_thread.h - the thread in which the sessions of a node are flushed to a shared file system,
// which may be slow, or stand still.
// Invariant: no call waits for that file system but the destructor, and that not for long: a thread
// that stands still is left behind, and tells nobody anything any more.
// Context: N; any thread. Doc: docs/store.md.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "node/flusher.h"
#include "os/thread.h"

namespace cr::node {

// Which checkpoints of a session are chosen, where that is not what FlushOptions say.
struct FlushChoice {
  uint64_t every = 0, period_ns = 0;
};

class FlushThread {
 public:
  struct Events {  // called by the thread; they must not call back
    std::function<void(const std::string&)> log;
    // Another one is the newest there, or the trouble or an answer is another; while somebody waits
    // for an answer also now and then.
    std::function<void(const SessionId&, const FlushStatus&)> changed;
  };
  static constexpr uint64_t kEndNs = 5'000'000'000;
  // Goes on with what an earlier crstored has left unfinished. bytes_per_second: of all sessions
  // together; 0: no bound. end_ns: so long the destructor waits at most.
  FlushThread(FlushOptions options, uint64_t bytes_per_second, Events events,
              uint64_t end_ns = kEndNs);
  ~FlushThread();
  // false: the kernel has refused the thread; nothing is flushed.
  bool is_running() const { return static_cast<bool>(thread_); }
  // It is to end: what end_ns allows begins to pass.
  void leave();
  FlushThread(const FlushThread&) = delete;
  FlushThread& operator=(const FlushThread&) = delete;

  // The session has a new checkpoint; the first time: it is here.
  void wake(const FlushedSession& session, const std::optional<FlushChoice>& own = std::nullopt);
  // The session is gone: what is under way or owed is finished.
  void end(const SessionId& id);
  // Its newest checkpoint is to be flushed, chosen or not, also if the session is gone. Returns the
  // number that FlushStatus::answered will reach.
  uint64_t request(const FlushedSession& session);
  // Of all sessions that are not at their end.
  std::vector<std::pair<FlushedSession, FlushStatus>> all() const;
  // Nothing is under way, owed, or still to be looked at.
  bool is_idle() const;
  // Since when the thread has been waiting for the file system; 0: it has not.
  uint64_t busy_since_ns() const;

 private:
  struct Shared;
  const std::shared_ptr<Shared> shared_;  // the thread may outlive this object
  const uint64_t end_ns_;
  uint64_t leave_ns_ = 0;
  os::Thread thread_;
};

}  // namespace cr::node
