// SPDX-License-Identifier: MIT
// recipe_test.cc - arguments of a recipe's calls, and what is found out of objects by using them.
#include "agent/recipe.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/kind_event.h"
#include "agent/posix_timers.h"
#include "format/make_call.h"

namespace {

using namespace cr;
using agent::Recipe;

// Makes all calls as a process does; the number of the one that failed, or -1.
int run(const Recipe& recipe, std::vector<format::Call>& calls, std::string& data) {
  calls = recipe.calls();
  data = recipe.bytes();
  const format::CallSurroundings here{
      reinterpret_cast<uint64_t>(data.data()),
      [](const void*, uint64_t id) { return id == 77 ? uint64_t{4242} : id; }, nullptr};
  for (size_t i = 0; i < calls.size(); i++) {
    if (format::make_call(calls.data(), calls[i], here) < 0) return static_cast<int>(i);
  }
  return -1;
}

uint64_t value_of(int fd) {
  uint64_t n = 0;
  return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

}  // namespace

Test(recipe, arguments_are_data_results_and_ids) {
  Recipe r;
  const uint64_t five = 5;
  const int32_t zero = 0;
  const size_t made = r.call("make", __NR_eventfd2, {0, EFD_NONBLOCK});
  r.call("add", __NR_write, {Recipe::result(made), r.data(&five, sizeof(five)), sizeof(five)});
  const agent::Arg word = r.data(&zero, sizeof(zero));
  r.call("store", format::kCallStoreId, {Recipe::id(77), word});
  r.call("may fail", __NR_close, {-1}, format::kCallMayFail);
  std::vector<format::Call> calls;
  std::string data;
  cr_assert(run(r, calls, data) == -1);
  cr_expect(value_of(static_cast<int>(calls[made].result)) == 5);
  int32_t stored = 0;
  memcpy(&stored, data.data() + word.value, sizeof(stored));
  cr_expect(stored == 4242);
  cr_expect(calls[3].result == -EBADF);
  close(static_cast<int>(calls[made].result));
}

Test(recipe, a_call_that_fails_or_returns_something_else_is_named) {
  std::vector<format::Call> calls;
  std::string data;
  Recipe fails;
  fails.call("fine", __NR_getpid, {});
  fails.call("wrong", __NR_close, {-1});
  cr_expect(run(fails, calls, data) == 1);
  Recipe other;
  other.call("as said", __NR_getpid, {}, format::kCallReturns, getpid());
  other.call("another", __NR_getpid, {}, format::kCallReturns, getpid() + 1);
  cr_expect(run(other, calls, data) == 1);
}

Test(recipe, its_only_call_can_be_made_here) {
  Recipe r;
  r.call("make", __NR_eventfd2, {3, EFD_SEMAPHORE});
  const auto fd = static_cast<int>(r.run_here());
  cr_assert(fd >= 0);
  cr_expect(value_of(fd) == 1);
  close(fd);
}

// As before Linux 6.5, where the kernel does not say it.
Test(recipe, a_semaphore_is_told_from_a_counter) {
  for (const bool semaphore : {false, true}) {
    for (const uint64_t count : {0ull, 1ull, 2ull, 3ull, 1000ull, ~0ull - 1}) {
      const int fd = eventfd(0, EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0));
      cr_assert(count == 0 || write(fd, &count, sizeof(count)) == sizeof(count));
      bool found = !semaphore;
      cr_expect(agent::find_semaphore(fd, count, &found));
      cr_expect(found == semaphore, "count %lu", count);
      if (semaphore && count < 10) {
        for (uint64_t i = 0; i < count; i++) cr_expect(value_of(fd) == 1);
      } else if (!semaphore && count > 0) {
        cr_expect(value_of(fd) == count);
      }
      if (count < 10 || !semaphore) cr_expect(value_of(fd) == 0, "count %lu", count);
      close(fd);
    }
  }
}

// As before Linux 6.15, where ids rise by one, and as the kernel chooses them.
Test(recipe, a_timer_gets_its_id) {
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  const auto at = reinterpret_cast<uint64_t>(&event);
  cr_expect(format::make_timer(CLOCK_MONOTONIC, at, 3, false) == 0);
  cr_expect(format::make_timer(CLOCK_MONOTONIC, at, 900, false) == 0);
  cr_expect(format::make_timer(CLOCK_MONOTONIC, at, 4, false) == -EBUSY, "it has been passed");
  cr_expect(format::make_timer(CLOCK_MONOTONIC, at, 1 << 30, false) == -EBUSY, "too far away");
  itimerspec t{};
  cr_expect(syscall(__NR_timer_gettime, 3, &t) == 0 && syscall(__NR_timer_gettime, 900, &t) == 0);
  for (const int id : {0, 4, 899, 901}) {
    cr_expect(syscall(__NR_timer_gettime, id, &t) == -1, "%d is left", id);
  }
  if (agent::timer_ids_can_be_chosen()) {
    cr_expect(format::make_timer(CLOCK_MONOTONIC, at, 5) == 0);
    cr_expect(format::make_timer(CLOCK_MONOTONIC, at, 1 << 30) == 0);
    cr_expect(format::make_timer(CLOCK_MONOTONIC, at, 5) == -EBUSY, "it is in use");
  }
}

// An EPOLLONESHOT entry that has fired, of a file that is ready and of one that is not.
Test(recipe, a_disarmed_entry_is_added) {
  const int set = epoll_create1(0), ready = eventfd(1, 0);
  int ends[2];
  cr_assert(pipe(ends) == 0);
  cr_assert(format::add_disarmed(static_cast<uint64_t>(set), static_cast<uint64_t>(ready),
                                 EPOLLONESHOT, 1) == 0);
  cr_assert(format::add_disarmed(static_cast<uint64_t>(set), static_cast<uint64_t>(ends[0]),
                                 EPOLLONESHOT, 2) == 0);
  epoll_event e{};
  cr_expect(write(ends[1], "x", 1) == 1);
  cr_expect(epoll_wait(set, &e, 1, 0) == 0);
  e.events = EPOLLIN;
  e.data.u64 = 3;
  cr_expect(epoll_ctl(set, EPOLL_CTL_MOD, ends[0], &e) == 0);
  cr_expect(epoll_wait(set, &e, 1, 0) == 1 && e.data.u64 == 3);
  for (const int fd : {set, ready, ends[0], ends[1]}) close(fd);
}
