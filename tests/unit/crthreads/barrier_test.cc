// SPDX-License-Identifier: MIT
// barrier_test.cc - crbarrier_*.
// Invariant under test: nobody leaves a round before all have come, one thread of each round is the
// serial one, and the barrier may be destroyed right after any return.
#include "crthreads/crthreads.h"
#include "tests/unit/crthreads/common.h"

using namespace cr_test;

namespace {

constexpr int kRounds = 5000;
crbarrier_t g_barrier;
std::atomic<int> g_arrived[kRounds];
std::atomic<int> g_serial[kRounds];
std::atomic<int> g_wrong{0};

void* walk_through(void* threads) {
  for (int r = 0; r < kRounds; r++) {
    g_arrived[r]++;
    const int result = crbarrier_wait(&g_barrier);
    if (g_arrived[r] != static_cast<int>(reinterpret_cast<intptr_t>(threads))) g_wrong++;
    if (result == CRBARRIER_SERIAL_THREAD) {
      g_serial[r]++;
    } else if (result != 0) {
      g_wrong++;
    }
  }
  return nullptr;
}

void walk_with(unsigned threads) {
  cr_assert_eq(crbarrier_init(&g_barrier, threads), 0);
  crthread_t t[8];
  for (unsigned i = 0; i < threads; i++) {
    t[i] = start(walk_through, reinterpret_cast<void*>(static_cast<intptr_t>(threads)));
  }
  for (unsigned i = 0; i < threads; i++) join(t[i]);
  cr_assert_eq(g_wrong, 0);
  for (const auto& s : g_serial) cr_assert_eq(s, 1);
  cr_assert_eq(crbarrier_destroy(&g_barrier), 0);
}

}  // namespace

Test(barrier, rounds_of_1) { walk_with(1); }
Test(barrier, rounds_of_2) { walk_with(2); }
Test(barrier, rounds_of_5) { walk_with(5); }
Test(barrier, rounds_of_4_under_signals) {
  set_handler(
      SIGALRM, [](int) {}, 0);
  ualarm(500, 500);
  walk_with(4);
  ualarm(0, 0);
}

Test(barrier, errors) {
  crbarrier_t b{};
  cr_assert_eq(crbarrier_init(&b, 0), EINVAL);
  cr_assert_eq(crbarrier_wait(&b), EINVAL, "not initialised");
  cr_assert_eq(crbarrier_init(&b, 2), 0);
  crthread_t t = start(
      [](void* p) -> void* {
        crbarrier_wait(static_cast<crbarrier_t*>(p));
        return nullptr;
      },
      &b);
  auto* inside = static_cast<cr::crthreads::Barrier*>(static_cast<void*>(&b));
  while (inside->entered == 0) usleep(100);
  cr_assert_eq(crbarrier_destroy(&b), EBUSY);
  crbarrier_wait(&b);
  cr_assert_eq(crbarrier_destroy(&b), 0);
  join(t);
  cr_assert_eq(crbarrier_init(&b, 1), 0);
  cr_assert_eq(crbarrier_wait(&b), CRBARRIER_SERIAL_THREAD);
  cr_assert_eq(crbarrier_destroy(&b), 0);
}

Test(barrier, more_threads_than_its_count) {
  // Eight threads, rounds of two: rounds end in any order and overlap. Each wait takes a ticket, so
  // that none is left without a partner in the end.
  constexpr int kWaits = 20000;
  static std::atomic<int> serial{0}, tickets{0};
  cr_assert_eq(crbarrier_init(&g_barrier, 2), 0);
  crthread_t t[8];
  for (crthread_t& one : t) {
    one = start([](void*) -> void* {
      while (tickets++ < kWaits) {
        if (crbarrier_wait(&g_barrier) == CRBARRIER_SERIAL_THREAD) serial++;
      }
      return nullptr;
    });
  }
  for (crthread_t one : t) join(one);
  cr_assert_eq(serial, kWaits / 2);
}

Test(barrier, may_be_destroyed_right_after_return) {
  // The serial thread destroys it and uses the memory for something else, while others still leave.
  for (int i = 0; i < 1000; i++) {
    crbarrier_t b;
    cr_assert_eq(crbarrier_init(&b, 3), 0);
    const auto pass = [](void* p) -> void* {
      auto* barrier = static_cast<crbarrier_t*>(p);
      if (crbarrier_wait(barrier) != CRBARRIER_SERIAL_THREAD) return nullptr;
      const intptr_t error = crbarrier_destroy(barrier);
      memset(p, 0xee, sizeof(crbarrier_t));
      return reinterpret_cast<void*>(error);
    };
    crthread_t t1 = start(pass, &b), t2 = start(pass, &b);
    cr_assert_null(pass(&b));
    cr_assert_null(join(t1));
    cr_assert_null(join(t2));
    for (const uint64_t word : b.opaque_) cr_assert_eq(word, 0xeeeeeeeeeeeeeeeeu);
  }
}
