// SPDX-License-Identifier: MIT
// store_threads.cc - see store_threads.h. Invariant: as there. Context: N.
#include "node/store_threads.h"

#include <chrono>
#include <utility>

namespace cr::node {

StoreThreads::StoreThreads(unsigned count, std::function<void(Task)> later)
    : later_(std::move(later)) {
  for (unsigned i = 0; i < count; i++) {
    auto thread = os::Thread::start([this] { work(); });
    if (!thread) return;  // fewer do
    threads_.push_back(std::move(*thread));
  }
}

StoreThreads::~StoreThreads() {
  (void)end(0);
  threads_.clear();
}

bool StoreThreads::end(uint64_t ns) {
  std::unique_lock held(mutex_);
  stop_ = true;
  changed_.notify_all();
  return changed_.wait_for(held, std::chrono::nanoseconds(ns), [this] { return at_work_ == 0; });
}

void StoreThreads::run(const Key& key, Task job, Task done) {
  {
    const std::lock_guard held(mutex_);
    Queue& q = queues_[key];
    q.jobs.push_back({std::move(job), std::move(done)});
    if (q.busy || q.jobs.size() > 1) return;  // whoever is at it goes on
    ready_.push_back(key);
  }
  changed_.notify_one();
}

void StoreThreads::work() {
  std::unique_lock held(mutex_);
  for (;;) {
    changed_.wait(held, [this] { return stop_ || !ready_.empty(); });
    if (stop_) return;
    const Key key = ready_.front();
    ready_.pop_front();
    Queue& q = queues_[key];  // stays while it is busy
    Job job = std::move(q.jobs.front());
    q.jobs.pop_front();
    q.busy = true;
    at_work_++;
    held.unlock();
    job.work();
    // The job ends in the daemon's thread, with all that it kept.
    later_([job = std::move(job)] { job.done(); });
    held.lock();
    q.busy = false;
    at_work_--;
    if (stop_) changed_.notify_all();
    if (q.jobs.empty()) {
      queues_.erase(key);
    } else {
      ready_.push_back(key);
      changed_.notify_one();
    }
  }
}

}  // namespace cr::node
