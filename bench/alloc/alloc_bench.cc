// SPDX-License-Identifier: MIT
// alloc_bench.cc - patterns of allocation that are known to tell allocators apart, each with a
// fixed seed and a fixed amount of work: what an allocator gains shows as CPU seconds.
// Invariant: only plain malloc, realloc and free are measured: LD_PRELOAD decides whose they are;
// every block is checked (block.h). Ends with status 0, 3 if a block was damaged, 2 on misuse.
// Context: an ordinary program. bench/alloc/run.py runs it; nothing of ours is linked.
//
//   alloc_bench NAME [PERCENT]     the pattern NAME, with PERCENT of its work
//   alloc_bench list               the names
//   alloc_bench whose              the library that malloc comes from
//
// Where the ideas come from (the code is ours; sizes and counts differ from theirs):
//   larson         P. Larson, M. Krishnan, "Memory Allocation for Long-Running Server
//                  Applications", ISMM 1998: a server's threads replace random blocks
//                  and hand them to successors
//   mstress        D. Leijen, B. Zorn, L. de Moura, "Mimalloc: Free List Sharding in Action", APLAS
//                  2019 and its stress test: random lifetimes, skewed sizes, blocks change threads
//   xmalloc        C. Lever, D. Boreham, "malloc() Performance in a Multithreaded Linux
//                  Environment", USENIX 2000: one thread allocates what another frees
//   sh6, sh8       MicroQuill's benchmarks of SmartHeap, sh6bench and sh8bench: batches of many
//                  sizes, freed in allocation order, against it or interleaved
//   realloc        buffers that grow as text editors, parsers and vectors make them grow
//   cache_scratch  E. Berger, K. McKinley, R. Blumofe, P. Wilson, "Hoard: A Scalable Memory
//                  Allocator for Multithreaded Applications", ASPLOS 2000: passive false sharing
//   rptest         M. Jansson's benchmark of rpmalloc: sizes over three orders of magnitude,
//                  realloc among them, blocks that change threads
#include <dlfcn.h>
#include <string.h>

#include <condition_variable>
#include <mutex>

#include "block.h"

namespace alloc_bench {
namespace {

// ------------------------------------------------------------------------------------- larson ----

// Threads live for one round, then new ones take over their blocks, in turn the neighbour's.
void larson(int threads, long work) {
  constexpr int kSlots = 5000, kRounds = 50;
  constexpr uint32_t kLow = 8, kHigh = 1000;
  auto slots = table<Block>(static_cast<size_t>(threads) * kSlots);
  Random first(1);
  for (Block& slot : slots) slot = make_block(first.range(kLow, kHigh));
  const long replacements = work * 10000 / threads;
  for (int round = 0; round < kRounds; round++) {
    in_threads(threads, [=](int thread) {
      Random random(static_cast<uint64_t>(round * threads + thread + 2));
      const int lane = (thread + round) % threads;
      const auto mine = slots.subspan(static_cast<size_t>(lane) * kSlots, kSlots);
      for (long i = 0; i < replacements; i++) {
        Block& slot = mine[random.below(kSlots)];
        drop(slot);
        slot = make_block(random.range(kLow, kHigh));
      }
    });
  }
  for (Block& slot : slots) drop(slot);
}

// ------------------------------------------------------------------------------------ mstress ----

// Blocks by the step at which their life ends; a ring of steps, in each a list.
class Calendar {
 public:
  static constexpr uint32_t kSteps = 4096, kBlocks = 16384;

  Calendar() : heads_(table<uint32_t>(kSteps)), nodes_(table<Node>(kBlocks)) {
    for (uint32_t i = 1; i < nodes_.size(); i++) nodes_[i].next = i + 1;
    nodes_.back().next = 0;
  }
  void add(uint64_t step, Block block) {
    const uint32_t node = free_;
    if (node == 0) fail("the calendar is full", block.data, block.size);
    free_ = nodes_[node].next;
    uint32_t& head = heads_[step % kSteps];
    nodes_[node] = {block, head};
    head = node;
  }
  void drop_all(uint64_t step) {
    uint32_t& head = heads_[step % kSteps];
    while (head != 0) {
      const uint32_t node = head;
      head = nodes_[node].next;
      drop(nodes_[node].block);
      nodes_[node].next = free_;
      free_ = node;
    }
  }

 private:
  struct Node {
    Block block;
    uint32_t next;
  };
  std::span<uint32_t> heads_;
  std::span<Node> nodes_;
  uint32_t free_ = 1;
};

uint32_t mstress_size(Random& random) {
  const uint32_t kind = random.below(100);
  if (kind < 60) return random.range(8, 128);
  if (kind < 90) return random.range(128, 1024);
  if (kind < 99) return random.range(1024, 8192);
  return random.range(8192, 65535);
}

uint32_t mstress_lifetime(Random& random) {
  const uint32_t kind = random.below(100);
  if (kind < 75) return random.range(1, 8);
  if (kind < 95) return random.range(8, 256);
  return random.range(256, Calendar::kSteps - 1);
}

void mstress(int threads, long work) {
  constexpr int kRounds = 10;
  Calendar calendars[2];
  SwapTable swaps(1000);
  const uint64_t steps = static_cast<uint64_t>(work * 1500 / threads);
  for (int round = 0; round < kRounds; round++) {
    in_threads(threads, [&, round](int thread) {
      Random random(static_cast<uint64_t>(100 + round * threads + thread));
      Calendar& calendar = calendars[thread];
      for (uint64_t step = steps * static_cast<uint64_t>(round), end = step + steps; step < end;
           step++) {
        calendar.drop_all(step);
        for (uint32_t i = 0; i < 16; i++) {
          Block block = make_block(mstress_size(random));
          if (random.below(8) == 0) {
            block = swaps.swap(random.below(static_cast<uint32_t>(swaps.size())), block);
            if (block.data != nullptr) check(block);
          }
          if (block.data != nullptr) calendar.add(step + mstress_lifetime(random), block);
        }
      }
    });
  }
  for (Calendar& calendar : calendars) {
    for (uint64_t step = 0; step < Calendar::kSteps; step++) calendar.drop_all(step);
  }
  swaps.drop_all();
}

// ------------------------------------------------------------------------------------ xmalloc ----

constexpr uint32_t kBatch = 512;
using Batch = Block[kBatch];

// A bounded queue of batches. Who has to wait sleeps, so that waiting is no CPU time.
class Queue {
 public:
  Queue() : batches_(table<Batch>(kBatches)) {}

  template <typename F>
  void put(F fill) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return in_ - out_ < kBatches; });
    lock.unlock();
    fill(batches_[in_ % kBatches]);
    lock.lock();
    in_++;
    if (in_ - out_ == kBatches / 2) changed_.notify_one();
  }
  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_one();
  }
  template <typename F>
  void take_all(F use) {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return in_ - out_ >= kBatches / 2 || closed_; });
      if (in_ == out_) return;
      const size_t end = in_;
      while (out_ != end) {
        lock.unlock();
        use(batches_[out_ % kBatches]);
        lock.lock();
        out_++;
      }
      changed_.notify_one();
    }
  }

 private:
  static constexpr size_t kBatches = 32;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::span<Batch> batches_;
  size_t in_ = 0, out_ = 0;
  bool closed_ = false;
};

void xmalloc(int, long work) {
  Queue queue;
  in_threads(2, [&](int thread) {
    if (thread == 0) {
      Random random(7);
      for (long i = 0; i < work * 600; i++) {
        queue.put([&](Batch& batch) {
          for (Block& block : batch) block = make_block(random.range(16, 256));
        });
      }
      queue.close();
    } else {
      queue.take_all([](Batch& batch) {
        for (Block& block : batch) drop(block);
      });
    }
  });
}

// -------------------------------------------------------------------------------- sh6 and sh8 ----

void drop_in_order(std::span<Block> blocks, uint32_t order) {
  const size_t count = blocks.size();
  switch (order) {
    case 0:  // first in, first out
      for (Block& block : blocks) drop(block);
      break;
    case 1:  // last in, first out
      for (size_t i = count; i > 0; i--) drop(blocks[i - 1]);
      break;
    default:  // every second one forwards, then the others backwards
      for (size_t i = 0; i < count; i += 2) drop(blocks[i]);
      for (size_t i = count; i > 0; i--) drop(blocks[i - 1]);
  }
}

// Runs of one size, small ones longer; three batches are alive, the oldest makes room.
void sh6(int threads, long work) {
  constexpr size_t kAlive = 3, kMost = 8000;
  in_threads(threads, [=](int thread) {
    Random random(static_cast<uint64_t>(20 + thread));
    const auto blocks = table<Block>(kAlive * kMost);
    uint32_t order = 0;
    for (long i = 0; i < work * 44 / threads; i++) {
      const auto batch = blocks.subspan(static_cast<size_t>(i) % kAlive * kMost, kMost);
      drop_in_order(batch, order++ % 3);
      size_t used = 0;
      while (used < kMost) {
        const uint32_t size = random.range(1, 8) * random.range(1, 125);
        for (uint32_t run = 1 + 2000 / (size + 20); run > 0 && used < kMost; run--) {
          batch[used++] = make_block(size);
        }
      }
    }
    for (size_t i = 0; i < kAlive; i++) drop_in_order(blocks.subspan(i * kMost, kMost), 1);
  });
}

// As sh6 with larger sizes among them; in each batch some outlive it, and with a second thread
// every fourth block is freed by the other one.
void sh8(int threads, long work) {
  constexpr size_t kMost = 4000;
  SwapTable swaps(1024);
  in_threads(threads, [&](int thread) {
    Random random(static_cast<uint64_t>(30 + thread));
    const auto batch = table<Block>(kMost);
    const auto kept = table<Block>(2 * kMost);
    for (long i = 0; i < work * 72 / threads; i++) {
      for (Block& block : batch) {
        block = make_block(random.below(50) == 0 ? random.log_uniform(10, 15)
                                                 : random.log_uniform(4, 9));
      }
      for (size_t at = i % 4; at < kMost; at += 4) {
        batch[at] = swaps.swap(random.below(static_cast<uint32_t>(swaps.size())), batch[at]);
        if (batch[at].data != nullptr) check(batch[at]);
      }
      for (size_t at = i % 8; at < kMost; at += 8) {
        std::swap(batch[at], kept[random.below(2 * kMost)]);
      }
      drop_in_order(batch, static_cast<uint32_t>(i) % 3);
    }
    drop_in_order(kept, 0);
  });
  swaps.drop_all();
}

// ------------------------------------------------------------------------------------ realloc ----

void realloc_growth(int, long work) {
  constexpr uint32_t kTexts = 256, kVectors = 64, kNeighbours = 1024;
  Random random(40);
  const auto texts = table<Block>(kTexts), vectors = table<Block>(kVectors),
             neighbours = table<Block>(kNeighbours);
  for (long i = 0; i < work * 40000; i++) {
    Block& text = texts[random.below(kTexts)];
    if (text.data == nullptr) {
      text = make_block(16);
    } else if (text.size > 12000) {
      resize(text, text.size / 3);
      drop(text);
    } else {
      resize(text, text.size + random.range(8, 200));
    }
    if (i % 16 == 0) {
      Block& vector = vectors[random.below(kVectors)];
      if (vector.data == nullptr) {
        vector = make_block(64);
      } else if (vector.size > 600000) {
        drop(vector);
      } else {
        resize(vector, vector.size + vector.size / 2);
      }
    }
    if (i % 4 == 0) {  // who takes the room behind a buffer
      Block& neighbour = neighbours[random.below(kNeighbours)];
      drop(neighbour);
      neighbour = make_block(random.range(16, 400));
    }
  }
  for (const auto& blocks : {texts, vectors, neighbours}) {
    for (Block& block : blocks) drop(block);
  }
}

// ------------------------------------------------------------------------------ cache_scratch ----

// The first blocks come from one thread, side by side; each thread frees its own and goes on with
// blocks of its own. An allocator that gives them the freed places back makes them share lines.
void cache_scratch(int, long work) {
  constexpr int kThreads = 2, kWrites = 400;
  Block given[kThreads];
  for (Block& block : given) block = make_block(8);
  in_threads(kThreads, [&, work](int thread) {
    drop(given[thread]);
    for (long i = 0; i < work * 40000; i++) {
      Block block = make_block(8);
      auto* counter = reinterpret_cast<volatile uint64_t*>(block.data);
      for (int write = 0; write < kWrites; write++) *counter = *counter + 1;
      mark(block);
      drop(block);
    }
  });
}

// ------------------------------------------------------------------------------------- rptest ----

void rptest(int threads, long work) {
  constexpr uint32_t kSlots = 4096;
  SwapTable swaps(256);
  in_threads(threads, [&](int thread) {
    Random random(static_cast<uint64_t>(50 + thread));
    const auto slots = table<Block>(kSlots);
    for (long i = 0; i < work * 110000 / threads; i++) {
      Block& slot = slots[random.below(kSlots)];
      const uint32_t what = random.below(16);
      if (slot.data == nullptr) {
        slot = make_block(random.log_uniform(4, 16));
      } else if (what < 3) {
        resize(slot, random.log_uniform(4, 16));
      } else if (what < 5) {
        slot = swaps.swap(random.below(static_cast<uint32_t>(swaps.size())), slot);
        if (slot.data != nullptr) check(slot);
      } else {
        drop(slot);
      }
    }
    for (Block& slot : slots) drop(slot);
  });
  swaps.drop_all();
}

// --------------------------------------------------------------------------------------- main ----

struct Pattern {
  const char* name;
  void (*run)(int threads, long work);  // work: 100 is the whole
  int threads;
};
constexpr Pattern kPatterns[] = {
    {"larson_1", larson, 1},
    {"larson_2", larson, 2},
    {"mstress_1", mstress, 1},
    {"mstress_2", mstress, 2},
    {"xmalloc_2", xmalloc, 2},
    {"sh6_1", sh6, 1},
    {"sh6_2", sh6, 2},
    {"sh8_1", sh8, 1},
    {"sh8_2", sh8, 2},
    {"realloc", realloc_growth, 1},
    {"cache_scratch_2", cache_scratch, 2},
    {"rptest_1", rptest, 1},
    {"rptest_2", rptest, 2},
};

int whose() {
  Dl_info info;
  if (dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info) == 0) return 1;
  puts(info.dli_fname);
  return 0;
}

int run(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "whose") == 0) return whose();
  for (const Pattern& pattern : kPatterns) {
    if (argc == 2 && strcmp(argv[1], "list") == 0) puts(pattern.name);
    if (argc >= 2 && strcmp(argv[1], pattern.name) == 0) {
      const long work = argc > 2 ? strtol(argv[2], nullptr, 10) : 100;
      pattern.run(pattern.threads, work < 1 ? 1 : work);
      printf("%s: whole\n", pattern.name);
      return 0;
    }
  }
  if (argc == 2 && strcmp(argv[1], "list") == 0) return 0;
  fprintf(stderr, "usage: alloc_bench NAME [PERCENT] | list | whose\n");
  return 2;
}

}  // namespace
}  // namespace alloc_bench

int main(int argc, char** argv) { return alloc_bench::run(argc, argv); }
