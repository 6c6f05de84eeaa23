// SPDX-License-Identifier: MIT
// thread.h - a thread that the kernel may refuse: std::thread throws then, which ends a process
// that is built without exceptions.
// Invariant: what is started runs once; a thread is joined or detached before its owner is gone.
// Context: N.
#pragma once

#include <pthread.h>

#include <functional>
#include <utility>

#include "base/base.h"

namespace cr::os {

class Thread {
 public:
  // Errors: kSystem (EAGAIN: a limit of processes or of memory); then `work` is not called.
  static Result<Thread> start(std::function<void()> work);

  Thread() = default;
  Thread(Thread&& o) noexcept : id_(o.id_), runs_(std::exchange(o.runs_, false)) {}
  Thread& operator=(Thread&& o) noexcept {
    join();
    id_ = o.id_;
    runs_ = std::exchange(o.runs_, false);
    return *this;
  }
  ~Thread() { join(); }
  explicit operator bool() const { return runs_; }
  void join();
  void detach();

 private:
  pthread_t id_ = {};
  bool runs_ = false;
};

}  // namespace cr::os
