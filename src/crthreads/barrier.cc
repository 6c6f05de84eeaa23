// SPDX-License-Identifier: MIT
// barrier.cc - crbarrier_*.
// Invariant: `entered`, `rounds` and `left` only grow. The thread with the n-th entry belongs to
// round (n - 1) / count and may leave once `rounds` is greater; left == entered means that no
// thread
// is inside, and only then destroy returns. So threads may enter the next round while others still
// leave the last, and a barrier may be destroyed as soon as one thread has returned from it.
// Context: N. Not a cancellation point (POSIX).
#include <errno.h>

#include "crthreads/crthreads.h"
#include "crthreads/futex_wait.h"
#include "rawsys/rawsys.h"

namespace cr::crthreads {
namespace {

constexpr uint64_t kDestroying = uint64_t{1} << 63;
constexpr int kSpins = 200;  // the others often come within a microsecond

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);  // a futex is the low half of 64 bits

// Two rounds can end at the same time in the wrong order: the greater number stays.
void raise_rounds(Barrier& b, uint64_t to) {
  uint64_t seen = b.rounds.load(std::memory_order_relaxed);
  while (seen < to && !b.rounds.compare_exchange_weak(seen, to, std::memory_order_acq_rel,
                                                      std::memory_order_relaxed)) {
  }
  futex_wake(&b.rounds, kWakeAll);
}

void await_round(const Barrier& b, uint64_t round) {
  for (int i = 0; i < kSpins; i++) {
    if (b.rounds.load(std::memory_order_acquire) > round) return;
    rawsys::cpu_relax();
  }
  for (;;) {
    const uint64_t seen = b.rounds.load(std::memory_order_acquire);
    if (seen > round) return;
    futex_wait(&b.rounds, static_cast<uint32_t>(seen), nullptr);
  }
}

}  // namespace

int barrier_init(Barrier& b, uint32_t count) {
  if (count == 0) return EINVAL;
  b.entered.store(0, std::memory_order_relaxed);
  b.rounds.store(0, std::memory_order_relaxed);
  b.left.store(0, std::memory_order_relaxed);
  b.count = count;
  return 0;
}

int barrier_wait(Barrier& b) {
  if (b.count == 0) return EINVAL;  // not initialised
  const uint64_t entry = b.entered.fetch_add(1, std::memory_order_acq_rel) + 1;
  const uint64_t round = (entry - 1) / b.count;
  const bool is_last = entry % b.count == 0;
  if (is_last) {
    raise_rounds(b, round + 1);
  } else {
    await_round(b, round);
  }
  // From here on the barrier may go away, unless a destroyer waits for us.
  if ((b.left.fetch_add(1, std::memory_order_acq_rel) & kDestroying) != 0) {
    futex_wake(&b.left, kWakeAll);
  }
  return is_last ? CRBARRIER_SERIAL_THREAD : 0;
}

int barrier_destroy(Barrier& b) {
  const uint64_t entered = b.entered.load(std::memory_order_acquire);
  if (b.count == 0) return EINVAL;
  if (entered % b.count != 0) return EBUSY;
  uint64_t left = b.left.fetch_or(kDestroying, std::memory_order_acq_rel);
  while ((left & ~kDestroying) != entered) {
    futex_wait(&b.left, static_cast<uint32_t>(left), nullptr);
    left = b.left.load(std::memory_order_acquire);
  }
  b.count = 0;
  return 0;
}

}  // namespace cr::crthreads
