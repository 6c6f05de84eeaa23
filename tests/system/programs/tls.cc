/* SPDX-License-Identifier: MIT */
/* crtest: mode=cycles
 *
 * C++ thread_local objects (constructed lazily, with destructors) in the main thread and three
 * others, TLS of a library loaded later is covered by dlopen_lib; here also an exception is thrown
 * in each thread after the wait, so that unwinding needs the restored TLS of libstdc++.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "three_phase.h"

namespace {

std::atomic<int> constructed{0}, destroyed{0}, waiting{0};
std::atomic<bool> go{false};

struct Tracked {
  std::string text;
  std::vector<int> numbers;
  Tracked() { ++constructed; }
  ~Tracked() { ++destroyed; }
};
thread_local Tracked tracked;
thread_local int plain = 17;
thread_local char zeroed[3000];

void build(int index) {
  tracked.text = "thread " + std::to_string(index) + std::string(100, 'x');
  tracked.numbers.assign(1000, index);
  plain += index;
  zeroed[2999] = static_cast<char>(index);
}

void verify(int index) {
  CHECK("thread_local string",
        tracked.text == "thread " + std::to_string(index) + std::string(100, 'x'));
  CHECK("thread_local vector", tracked.numbers == std::vector<int>(1000, index));
  CHECK_EQ("thread_local int", 17 + index, plain);
  CHECK_EQ("thread_local array", index, zeroed[2999]);
  CHECK_EQ("untouched thread_local byte", 0, zeroed[0]);
  try {
    throw std::runtime_error(tracked.text);
  } catch (const std::exception &e) {
    CHECK("exception text", tracked.text == e.what());
  }
}

void worker(int index) {
  const void *address = &tracked;
  build(index);
  try {
    ++waiting;
    while (!go) usleep(1000);
    throw index;
  } catch (int thrown) {
    CHECK_EQ("thrown across the wait", index, thrown);
  }
  CHECK("address of a thread_local", address == &tracked);
  verify(index);
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (int i = 1; i <= 3; ++i) threads.emplace_back(worker, i);
  build(0);
  while (waiting != 3) usleep(1000);
  test_ready();
  test_wait();
  verify(0);
  go = true;
  for (std::thread &thread : threads) thread.join();
  CHECK_EQ("thread_locals constructed", 4, constructed.load());
  CHECK_EQ("thread_locals destroyed", 3, destroyed.load());
  std::thread late([] { build(9), verify(9); });
  late.join();
  CHECK_EQ("thread_locals constructed after a late thread", 5, constructed.load());
  test_finish();
}
