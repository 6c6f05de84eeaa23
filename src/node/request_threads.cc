// SPDX-License-Identifier: MIT
// request_threads.cc - see request_threads.h. Invariant: as there. Context: N.
#include "node/request_threads.h"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace cr::node {

RequestThreads::RequestThreads(const Bounds& bounds, Task ended)
    : bounds_(bounds), ended_(std::move(ended)) {}

RequestThreads::~RequestThreads() {
  {
    const std::lock_guard held(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  threads_.clear();
}

Result<void> RequestThreads::run(uint32_t uid, Task task, std::string* ret_text) {
  const std::lock_guard held(mutex_);
  const auto own = std::ranges::count(waiting_, uid, &Waiting::uid);
  if (static_cast<size_t>(own) >= bounds_.of_user_waiting) {
    *ret_text = std::to_string(own) +
                " requests of yours are waiting for crstored already; let some of them come to "
                "their end, and try again";
    return Error{Errc::kBusy, EAGAIN, "too many requests of one user"};
  }
  if (waiting_.size() >= bounds_.waiting) {
    *ret_text = std::to_string(waiting_.size()) +
                " requests are waiting for crstored already; try again in a while";
    return Error{Errc::kBusy, EAGAIN, "too many requests"};
  }
  if (threads_.size() < bounds_.at_once && busy_ + waiting_.size() >= threads_.size()) {
    auto thread = os::Thread::start([this] { work(); });
    if (!thread && threads_.empty()) {
      *ret_text = std::string("no thread can be made for the request: ") +
                  strerror(thread.error().sys_errno) +
                  "; raise the limit of crstored's processes (ulimit -u, TasksMax), or try again";
      return thread.error();
    }
    if (thread) threads_.push_back(std::move(*thread));
  }
  waiting_.push_back({uid, std::move(task)});
  changed_.notify_all();
  return {};
}

// end(): nothing may begin now.
std::deque<RequestThreads::Waiting>::iterator RequestThreads::next() {
  auto best = waiting_.end();
  const auto of = [this](uint32_t uid) {
    const auto at = at_work_.find(uid);
    return at == at_work_.end() ? 0 : at->second;
  };
  for (auto w = waiting_.begin(); w != waiting_.end(); ++w) {
    const unsigned own = of(w->uid);
    if (own >= bounds_.of_user_at_once) continue;
    if (best == waiting_.end() || own < of(best->uid)) best = w;
  }
  return best;
}

void RequestThreads::work() {
  std::unique_lock held(mutex_);
  for (;;) {
    auto at = next();
    if (at == waiting_.end()) {
      if (stop_ && waiting_.empty()) return;
      changed_.wait(held);
      continue;
    }
    const uint32_t uid = at->uid;
    Task task = std::move(at->task);
    waiting_.erase(at);
    at_work_[uid]++;
    busy_++;
    held.unlock();
    task();
    task = nullptr;
    held.lock();
    busy_--;
    if (--at_work_[uid] == 0) at_work_.erase(uid);
    changed_.notify_all();
    held.unlock();
    if (ended_) ended_();
    held.lock();
  }
}

bool RequestThreads::is_idle() const {
  const std::lock_guard held(mutex_);
  return busy_ == 0 && waiting_.empty();
}

bool RequestThreads::wait(uint64_t ns) {
  std::unique_lock held(mutex_);
  return changed_.wait_for(held, std::chrono::nanoseconds(ns),
                           [this] { return busy_ == 0 && waiting_.empty(); });
}

}  // namespace cr::node
