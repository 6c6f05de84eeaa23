// SPDX-License-Identifier: MIT
// store_threads.h - the threads that read and write the store, so that a slow disk holds up neither
// the links, whose heartbeats would be late, nor other sessions.
// Invariant: jobs of one key run one after the other, in their order; what is to be done afterwards
// is handed to the daemon's thread in the same order. Nothing that a job or its end refers to is
// given up in between.
// Context: N; run() from the daemon's thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "node/part_store.h"
#include "os/thread.h"

namespace cr::node {

class StoreThreads {
 public:
  using Key = std::pair<SessionId, unsigned>;  // a session, and a holder of its parts
  using Task = std::function<void()>;
  // Instead of a holder's number: a session as a whole; with SessionId{}: listings, nodes' states.
  static constexpr unsigned kWhole = ~0u, kListings = ~0u - 1, kStates = ~0u - 2;

  // later: has the daemon's thread call a task; may be called from any thread.
  StoreThreads(unsigned count, std::function<void(Task)> later);
  // What has begun is finished; what has not is not begun, and nobody is told.
  ~StoreThreads();
  // 0: the kernel has refused them all.
  size_t size() const { return threads_.size(); }
  // Begins nothing any more, and waits so long for what has begun. false: it does not come to its
  // end.
  bool end(uint64_t ns);
  StoreThreads(const StoreThreads&) = delete;
  StoreThreads& operator=(const StoreThreads&) = delete;

  // Calls `job` in one of the threads, then `done` in the daemon's.
  void run(const Key& key, Task job, Task done);

 private:
  struct Job {
    Task work, done;
  };
  struct Queue {
    std::deque<Job> jobs;
    bool busy = false;  // one of them is running
  };
  void work();

  std::function<void(Task)> later_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::map<Key, Queue> queues_;
  std::deque<Key> ready_;  // queues with a job, none of them busy
  bool stop_ = false;
  unsigned at_work_ = 0;
  std::vector<os::Thread> threads_;
};

}  // namespace cr::node
