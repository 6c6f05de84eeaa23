// SPDX-License-Identifier: MIT
// request_threads_test.cc - what people ask for, in threads.
// Invariant under test: no more are at work than there may be, of one user neither; a user with
// many requests does not hold up another one; what is too much is refused in words; what was taken
// is done, once.
#include "node/request_threads.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sys/resource.h>

#include <atomic>
#include <future>

namespace {

using cr::Errc;
using cr::node::RequestThreads;

constexpr uint64_t kLongNs = 60'000'000'000;

// Tasks that stay at work until they are let go.
struct Gate {
  std::promise<void> open;
  std::shared_future<void> opened = open.get_future().share();
  std::atomic<int> inside = 0, most = 0, done = 0;

  RequestThreads::Task task() {
    return [this] {
      const int now = ++inside;
      for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
      }
      opened.wait();
      --inside;
      ++done;
    };
  }
};

Test(request_threads, bounds_of_all_and_of_one_user) {
  Gate gate;
  std::string text;
  std::atomic<int> other = 0, told = 0;
  {
    RequestThreads threads({4, 2, 8, 5}, [&] { ++told; });
    cr_assert(threads.is_idle());
    // Two are at work, five wait: no bound but the user's keeps the others out.
    int taken = 0;
    while (threads.run(7, gate.task(), &text)) {
      taken++;
      while (taken <= 2 && gate.inside < taken) {
      }
      cr_assert_leq(taken, 7);
    }
    cr_assert_eq(taken, 7);
    cr_assert(text.starts_with("5 requests of yours are waiting"), "%s", text.c_str());
    // Another user need not wait for these.
    cr_assert(threads
                  .run(
                      8, [&] { ++other; }, &text)
                  .has_value());
    while (other == 0) {
    }
    cr_assert_eq(gate.inside.load(), 2);
    cr_assert_not(threads.wait(1'000'000));
    for (int i = 0; i < 5; i++) {
      if (!threads.run(static_cast<uint32_t>(9 + i), gate.task(), &text)) break;
    }
    cr_assert_not(threads.run(20, gate.task(), &text) && threads.run(21, gate.task(), &text));
    cr_assert(text.ends_with("requests are waiting for crstored already; try again in a while"));
    gate.open.set_value();
    cr_assert(threads.wait(kLongNs));
  }
  cr_assert_leq(gate.most.load(), 4);
  cr_assert_geq(gate.done.load(), 7);
  cr_assert_eq(told.load(), gate.done + other);
}

Test(request_threads, a_thread_that_is_refused_is_an_error) {
  const rlimit none{0, RLIM_INFINITY};
  cr_assert_eq(setrlimit(RLIMIT_AS, &none), 0);  // no stack can be had
  std::string text;
  RequestThreads threads({}, [] {});
  const auto run = threads.run(
      1, [] {}, &text);
  const rlimit all{RLIM_INFINITY, RLIM_INFINITY};
  (void)setrlimit(RLIMIT_AS, &all);
  cr_assert_not(run.has_value());
  cr_assert_eq(run.error().code, Errc::kSystem);
  cr_assert_eq(run.error().sys_errno, EAGAIN);
  cr_assert(text.starts_with("no thread can be made for the request"), "%s", text.c_str());
}

}  // namespace
