/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles,live
 *
 * C++ exceptions in flight at the checkpoint: main waits in a catch block (and rethrows
 * afterwards), one thread waits in a destructor that runs during unwinding, one holds an
 * exception_ptr made by another thread.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>

#include "three_phase.h"

namespace {

std::atomic<bool> go{false};
std::atomic<int> waiting{0};

void wait_for_main() {
  ++waiting;
  while (!go) usleep(1000);
}

struct Payload : std::runtime_error {
  using std::runtime_error::runtime_error;
  int numbers[100] = {42};
};

struct WaitsWhileUnwinding {
  ~WaitsWhileUnwinding() {
    CHECK_EQ("uncaught exceptions, before", 1, std::uncaught_exceptions());
    wait_for_main();
    CHECK_EQ("uncaught exceptions, after", 1, std::uncaught_exceptions());
    try { /* a second exception inside the first one's unwinding */
      throw 5;
    } catch (int value) {
      CHECK_EQ("exception inside a destructor", 5, value);
    }
  }
};

void unwinding_thread() {
  try {
    WaitsWhileUnwinding object;
    throw Payload("unwinding");
  } catch (const Payload &p) {
    CHECK_STR("exception that was in flight", "unwinding", p.what());
    CHECK_EQ("its payload", 42, p.numbers[0]);
  }
  CHECK_EQ("uncaught exceptions at the end", 0, std::uncaught_exceptions());
}

void holding_thread() {
  std::exception_ptr held;
  std::thread([&held] {
    try {
      throw Payload("held");
    } catch (...) {
      held = std::current_exception();
    }
  }).join();
  wait_for_main();
  try {
    std::rethrow_exception(held);
  } catch (const Payload &p) {
    CHECK_STR("exception held by a pointer", "held", p.what());
  }
}

__attribute__((noinline)) void throw_deep(int depth, const std::string &text) {
  std::string local = text + std::to_string(depth);
  if (depth == 0) throw Payload(local);
  throw_deep(depth - 1, text);
  CHECK("never reached", local.empty());
}

void wait_in_catch_block() {
  try {
    throw_deep(50, "deep ");
  } catch (...) {
    test_ready();
    test_wait();
    throw;
  }
}

}  // namespace

int main() {
  std::thread unwinding(unwinding_thread), holding(holding_thread);
  while (waiting != 2) usleep(1000);
  try {
    wait_in_catch_block();
    TEST_FAIL("rethrow, expected an exception, got none");
  } catch (const Payload &p) {
    CHECK_STR("exception rethrown after the wait", "deep 0", p.what());
  }
  go = true;
  unwinding.join();
  holding.join();
  try {
    throw_deep(100, "late ");
  } catch (const std::exception &e) {
    CHECK_STR("exception thrown after the wait", "late 0", e.what());
  }
  test_finish();
}
