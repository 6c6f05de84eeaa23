// SPDX-License-Identifier: MIT
// thread.cc - see thread.h. Invariant: as there. Context: N.
#include "os/thread.h"

#include <memory>

namespace cr::os {
namespace {

using Work = std::function<void()>;

void* run(void* work) {
  const std::unique_ptr<Work> own(static_cast<Work*>(work));
  (*own)();
  return nullptr;
}

}  // namespace

Result<Thread> Thread::start(Work work) {
  auto own = std::make_unique<Work>(std::move(work));
  Thread t;
  const int e = pthread_create(&t.id_, nullptr, run, own.get());
  if (e != 0) return Error{Errc::kSystem, e, "no thread can be made"};
  (void)own.release();
  t.runs_ = true;
  return t;
}

void Thread::join() {
  if (std::exchange(runs_, false)) pthread_join(id_, nullptr);
}

void Thread::detach() {
  if (std::exchange(runs_, false)) pthread_detach(id_);
}

}  // namespace cr::os
