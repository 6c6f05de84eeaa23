// SPDX-License-Identifier: MIT
// heap_stress.cc - threads that allocate, hand blocks to one another, end and begin, while others
// fork; built with ThreadSanitizer and with AddressSanitizer (targets build/tests/stress/*).
// Invariant under test: no data race, live blocks keep their bytes, and when all threads are done
// the heap's own invariants hold.
//
//   heap_stress SECONDS [SEED]
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "nvheap/nvheap.h"
#include "tests/unit/nvheap/random.h"

namespace {

using namespace cr::nvheap;

struct Block {
  size_t bytes;
  uint64_t mark;
};

constexpr int kBoxes = 256;
std::atomic<Block*> g_boxes[kBoxes];
std::atomic<uint64_t> g_steps{0};
time_t g_end;

[[noreturn]] void wrong(const char* what) {
  fprintf(stderr, "heap_stress: %s\n", what);
  abort();
}

void fill(Block* b, size_t bytes) {
  b->bytes = bytes;
  b->mark = reinterpret_cast<uint64_t>(b) ^ bytes;
  reinterpret_cast<char*>(b)[bytes - 1] = static_cast<char>(bytes);
}

void verify(const Block* b) {
  if (b->mark != (reinterpret_cast<uint64_t>(b) ^ b->bytes) ||
      reinterpret_cast<const char*>(b)[b->bytes - 1] != static_cast<char>(b->bytes)) {
    wrong("a block has lost its bytes");
  }
}

size_t random_size(cr_test::Random& random) {
  const uint64_t kind = random.below(64);
  const uint64_t most = kind == 0 ? 600000 : kind < 6 ? 40000 : kind < 20 ? 3000 : 300;
  return sizeof(Block) + 1 + random.below(most);
}

void play(cr_test::Random& random, int steps) {
  constexpr int kOwn = 100;
  Block* own[kOwn] = {};
  for (int i = 0; i < steps; i++) {
    Block*& b = own[random.below(kOwn)];
    if (b == nullptr) {
      const size_t bytes = random_size(random);
      b = static_cast<Block*>(random.one_in(8) ? allocate_aligned(bytes, 64) : allocate(bytes));
      if (b == nullptr) wrong("no memory");
      fill(b, bytes);
      continue;
    }
    verify(b);
    switch (random.below(4)) {
      case 0:
        b = g_boxes[random.below(kBoxes)].exchange(b);
        if (b != nullptr) verify(b);
        break;
      case 1: {
        const size_t bytes = random_size(random);
        b = static_cast<Block*>(reallocate(b, bytes));
        fill(b, bytes);
        break;
      }
      default:
        deallocate(b);
        b = nullptr;
    }
  }
  for (Block* b : own) {
    if (b != nullptr) deallocate(b);
  }
  g_steps += static_cast<uint64_t>(steps);
}

void* work(void* seed) {
  cr_test::Random random(reinterpret_cast<uint64_t>(seed));
  while (time(nullptr) < g_end) {
    play(random, 2000);
    if (random.one_in(4)) break;  // a new thread takes its place
    if (random.one_in(16)) (void)trim(0);
  }
  return nullptr;
}

[[maybe_unused]] void fork_once(cr_test::Random& random) {
  const pid_t pid = fork();
  if (pid == 0) {
    play(random, 3000);
    _exit(0);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) wrong("a child of fork failed");
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 0) : cr_test::test_seed();
  g_end = time(nullptr) + (argc > 1 ? atol(argv[1]) : 5);
  cr_test::Random random(seed);
  while (time(nullptr) < g_end) {
    constexpr int kThreads = 4;
    pthread_t threads[kThreads];
    for (pthread_t& t : threads) {
      if (pthread_create(&t, nullptr, work, reinterpret_cast<void*>(random.next())) != 0) {
        wrong("no thread");
      }
    }
#if !defined(__SANITIZE_THREAD__)  // which has no forks of programs with threads
    fork_once(random);
#endif
    for (pthread_t t : threads) pthread_join(t, nullptr);
  }
  for (auto& box : g_boxes) {
    if (Block* b = box.exchange(nullptr)) deallocate(b);
  }
  if (const char* broken = check()) wrong(broken);
  uint64_t in_use = 0, reserve = 0;
  stats(&in_use, &reserve);
  if (in_use != 0) wrong("memory is in use when all blocks are freed");
  printf("%llu steps\n", static_cast<unsigned long long>(g_steps.load()));
  return 0;
}
