// SPDX-License-Identifier: MIT
// request_threads.h - the threads that do what people ask for: so many at once, and of no user so
// many that others have to wait for them.
// Invariant: of what was taken all is begun, one user's in the order of its coming, and whose user
// has the fewest at work is next; what is beyond the bounds is refused at once.
// Context: N; run() from one thread.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "os/thread.h"

namespace cr::node {

class RequestThreads {
 public:
  using Task = std::function<void()>;
  struct Bounds {
    unsigned at_once = 8, of_user_at_once = 4;
    size_t waiting = 64, of_user_waiting = 16;
  };
  // ended: called behind each task, by its thread.
  RequestThreads(const Bounds& bounds, Task ended);
  ~RequestThreads();  // waits for all
  RequestThreads(const RequestThreads&) = delete;
  RequestThreads& operator=(const RequestThreads&) = delete;

  // Errors, with text for people: kBusy (too many wait), kSystem (there is no thread, and none can
  // be made).
  Result<void> run(uint32_t uid, Task task, std::string* ret_text);
  // Nothing is at work, and nothing waits.
  bool is_idle() const;
  // Waits so long for that. false: something does not come to its end.
  bool wait(uint64_t ns);

 private:
  struct Waiting {
    uint32_t uid;
    Task task;
  };
  void work();
  std::deque<Waiting>::iterator next();

  const Bounds bounds_;
  const Task ended_;
  mutable std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;
  std::map<uint32_t, unsigned> at_work_;  // by user
  unsigned busy_ = 0;
  bool stop_ = false;
  std::vector<os::Thread> threads_;
};

}  // namespace cr::node
