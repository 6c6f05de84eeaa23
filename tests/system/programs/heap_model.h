// SPDX-License-Identifier: MIT
// heap_model.h - the model test of an allocator as a three-phase program: 1 to 16 threads make
// random calls and hand blocks to each other without pause, through checkpoints, kills and
// restores; then what is alive must be what the model says.
// Invariant: the seed is printed (to standard error) and CR_TEST_SEED=n repeats it.
#pragma once

#include <pthread.h>

#include "../../unit/nvheap/model.h"

extern "C" {
#include "three_phase.h"
}

namespace heap_model {

constexpr unsigned kMostThreads = 16;

template <typename Heap>
struct Game {
  using Player = cr_test::Player<Heap>;
  static inline cr_test::Exchange exchange;
  static inline Player* players[kMostThreads];
  static inline const char* wrong[kMostThreads];
  static inline volatile uint64_t turns[kMostThreads];
  static inline volatile bool over;

  static void* play(void* argument) {
    const auto me = reinterpret_cast<uintptr_t>(argument);
    while (!over && wrong[me] == nullptr) {
      wrong[me] = players[me]->play(50);
      turns[me] = turns[me] + 1;
    }
    if (wrong[me] == nullptr) wrong[me] = players[me]->check_all();
    return nullptr;
  }

  // look(threads): called when all threads have ended and nothing has been freed yet.
  template <typename Look>
  static void run(Look look) {
    static constexpr unsigned kCounts[] = {1, 2, 5, 16};
    const uint64_t seed = cr_test::test_seed();
    const unsigned threads = kCounts[seed % 4];
    pthread_t ids[kMostThreads];
    for (unsigned i = 0; i < threads; i++) {
      players[i] = new Player(seed + i, 2000 / static_cast<int>(threads), &exchange);
      REQUIRE(pthread_create(&ids[i], nullptr, play, reinterpret_cast<void*>(uintptr_t{i})) == 0);
    }
    wait_for_turns(threads, 20);
    test_ready();
    test_wait();
    wait_for_turns(threads, 20);
    over = true;
    for (unsigned i = 0; i < threads; i++) {
      pthread_join(ids[i], nullptr);
      if (wrong[i] != nullptr) {
        dprintf(STDOUT_FILENO, "FAIL: thread %u of %u, seed %llu: %s\n", i, threads,
                static_cast<unsigned long long>(seed), wrong[i]);
        test_failures++;
      }
    }
    look(threads);
    for (unsigned i = 0; i < threads; i++) CHECK("blocks are intact", !players[i]->finish());
    for (uint64_t i = 0; i < cr_test::Exchange::kSlots; i++) {
      CHECK("exchanged blocks are intact", !Player::drop(exchange.slots()[i]));
    }
  }

  static void wait_for_turns(unsigned threads, uint64_t count) {
    uint64_t before[kMostThreads];
    for (unsigned i = 0; i < threads; i++) before[i] = turns[i];
    const double give_up = test_now() + 30;
    for (unsigned i = 0; i < threads; i++) {
      while (turns[i] < before[i] + count && wrong[i] == nullptr && test_now() < give_up) {
        usleep(1000);
      }
      CHECK("each thread goes on", turns[i] >= before[i] + count || wrong[i] != nullptr);
    }
  }
};

}  // namespace heap_model
