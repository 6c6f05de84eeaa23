// SPDX-License-Identifier: MIT
// store_threads_test.cc - jobs for the store beside the daemon's thread.
// Invariant under test: jobs of one key keep their order and never run at once, those of other keys
// do not wait for them; each job that has run ends exactly once, in the daemon's thread; what a job
// keeps is let go there.
#include "node/store_threads.h"

#include <criterion/criterion.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

namespace {

using cr::node::SessionId;
using cr::node::StoreThreads;

// The daemon's side: tasks that wait for it.
class Later {
 public:
  void operator()(StoreThreads::Task task) {
    const std::lock_guard held(mutex_);
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }
  // Does what is there; if there is nothing, waits for something.
  void turn() {
    std::vector<StoreThreads::Task> tasks;
    {
      std::unique_lock held(mutex_);
      cr_assert(changed_.wait_for(held, std::chrono::seconds(60), [&] { return !tasks_.empty(); }));
      tasks.swap(tasks_);
    }
    for (const auto& t : tasks) t();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<StoreThreads::Task> tasks_;
};

StoreThreads::Key key(uint8_t n) { return {SessionId{n}, n}; }

Test(store_threads, jobs_of_a_key_keep_their_order) {
  Later later;
  StoreThreads threads(4, [&](StoreThreads::Task t) { later(std::move(t)); });
  constexpr unsigned kKeys = 5, kJobs = 400;
  std::vector<unsigned> begun[kKeys], ended[kKeys];
  std::atomic<unsigned> inside[kKeys] = {};
  unsigned done = 0;
  for (unsigned i = 0; i < kJobs; i++) {
    for (unsigned k = 0; k < kKeys; k++) {
      threads.run(
          key(static_cast<uint8_t>(k)),
          [&, k, i] {
            cr_expect_eq(inside[k].fetch_add(1), 0u, "two jobs of one key at once");
            begun[k].push_back(i);
            inside[k].fetch_sub(1);
          },
          [&, k, i] {
            ended[k].push_back(i);
            done++;
          });
    }
  }
  while (done < kKeys * kJobs) later.turn();
  for (unsigned k = 0; k < kKeys; k++) {
    cr_assert_eq(begun[k].size(), kJobs);
    cr_assert_eq(ended[k].size(), kJobs);
    for (unsigned i = 0; i < kJobs; i++) cr_assert(begun[k][i] == i && ended[k][i] == i);
  }
}

Test(store_threads, a_slow_job_holds_up_its_own_key_only) {
  Later later;
  std::mutex gate;
  gate.lock();
  StoreThreads threads(2, [&](StoreThreads::Task t) { later(std::move(t)); });
  unsigned slow = 0, quick = 0;
  for (int i = 0; i < 2; i++) {
    threads.run(
        key(1), [&] { const std::lock_guard held(gate); }, [&] { slow++; });
  }
  for (int i = 0; i < 10; i++)
    threads.run(
        key(2), [] {}, [&] { quick++; });
  while (quick < 10) later.turn();
  cr_expect_eq(slow, 0u);
  gate.unlock();
  while (slow < 2) later.turn();
}

Test(store_threads, what_a_job_keeps_ends_in_the_daemons_thread) {
  Later later;
  const auto own = std::this_thread::get_id();
  std::thread::id where;
  {
    StoreThreads threads(1, [&](StoreThreads::Task t) { later(std::move(t)); });
    std::shared_ptr<int> kept(new int(1), [&](int* p) {
      where = std::this_thread::get_id();
      delete p;
    });
    bool done = false;
    threads.run(
        key(1), [kept] {}, [&done] { done = true; });
    kept.reset();
    while (!done) later.turn();
  }
  cr_expect(where == own);
}

}  // namespace
