/* SPDX-License-Identifier: MIT */
/*
 * cxx_workload.cc - `cxx_workload ROUNDS THREADS`: a longer C++ computation for real_programs.py.
 *
 * Threads with thread_local state work on standard containers, throw exceptions through deep
 * frames and catch them, and meet at the end of each round, when main prints one line that depends
 * on everything so far. The invariant: the same arguments give the same output, however the threads
 * are scheduled. It knows nothing of checkpoints.
 */
#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

uint64_t mix(uint64_t value) { /* splitmix64 */
  value += 0x9e3779b97f4a7c15ull;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

struct Shape {
  virtual ~Shape() = default;
  virtual uint64_t area(uint64_t scale) const = 0;
};
struct Square : Shape {
  explicit Square(uint64_t side) : side(side) {}
  uint64_t area(uint64_t scale) const override { return side * side * scale; }
  uint64_t side;
};
struct Rectangle : Shape {
  Rectangle(uint64_t a, uint64_t b) : a(a), b(b) {}
  uint64_t area(uint64_t scale) const override { return a * b + scale; }
  uint64_t a, b;
};

class Rejected : public std::runtime_error {
 public:
  Rejected(std::string text, uint64_t value) : std::runtime_error(std::move(text)), value(value) {}
  uint64_t value;
};

/* What one thread carries from round to round. */
struct ThreadState {
  uint64_t random = 0;
  std::map<std::string, uint64_t> tree;
  std::unordered_map<uint64_t, std::string> table;
  std::vector<std::unique_ptr<Shape>> shapes;
};
thread_local ThreadState state;
thread_local uint64_t caught = 0;

uint64_t next_random() { return state.random = mix(state.random); }

/* Each frame has an object to destroy on the way out. */
uint64_t descend(int depth, uint64_t value) {
  std::string frame = std::to_string(value) + ":" + std::to_string(depth);
  if (depth == 0) {
    if (value % 3 == 0) throw Rejected(frame, value);
    if (value % 3 == 1) throw value;
    return value;
  }
  uint64_t result = descend(depth - 1, mix(value) ^ frame.size());
  return result + frame.size();
}

uint64_t guarded_descend(uint64_t value) {
  try {
    return descend(static_cast<int>(10 + value % 20), value);
  } catch (const Rejected &rejected) {
    ++caught;
    return rejected.value + std::string(rejected.what()).size();
  } catch (uint64_t thrown) {
    ++caught;
    return thrown / 3;
  }
}

void grow_and_prune() {
  for (int i = 0; i < 400; ++i) {
    uint64_t r = next_random();
    state.tree["key " + std::to_string(r % 5000)] += r;
    state.table[r % 3000] += static_cast<char>('a' + r % 26);
    if (r % 2 == 0)
      state.shapes.push_back(std::make_unique<Square>(r % 1000));
    else
      state.shapes.push_back(std::make_unique<Rectangle>(r % 100, r % 77));
  }
  if (state.shapes.size() > 4000)
    state.shapes.erase(state.shapes.begin(), state.shapes.begin() + 3000);
  if (state.tree.size() > 4000)
    state.tree.erase(state.tree.begin(), std::next(state.tree.begin(), 2000));
}

uint64_t one_round() {
  grow_and_prune();
  uint64_t sum = 0;
  for (const auto &[key, value] : state.tree) sum = mix(sum ^ value ^ key.size());
  std::vector<std::string> texts;
  for (const auto &[key, text] : state.table) texts.push_back(text);
  std::sort(texts.begin(), texts.end());
  for (size_t i = 0; i < texts.size(); i += 17) sum = mix(sum + texts[i].size());
  for (const auto &shape : state.shapes) sum += shape->area(sum & 7);
  for (int i = 0; i < 60; ++i) sum = mix(sum ^ guarded_descend(next_random()));
  return sum ^ caught;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s ROUNDS THREADS\n", argv[0]);
    return 2;
  }
  int rounds = std::atoi(argv[1]), thread_count = std::atoi(argv[2]);
  std::vector<uint64_t> sums(static_cast<size_t>(thread_count));
  int round = 0;
  uint64_t total = 0;
  /* The last thread to arrive prints for all. */
  std::barrier end_of_round(thread_count, [&]() noexcept {
    for (uint64_t sum : sums) total = mix(total ^ sum);
    std::printf("%d %016llx\n", round++, static_cast<unsigned long long>(total));
    if (round % 5 == 0) std::fflush(stdout);
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < thread_count; ++i) {
    threads.emplace_back([&, i] {
      state.random = mix(static_cast<uint64_t>(i));
      for (int r = 0; r < rounds; ++r) {
        sums[static_cast<size_t>(i)] = one_round();
        end_of_round.arrive_and_wait();
      }
    });
  }
  for (std::thread &thread : threads) thread.join();
  std::printf("done %016llx\n", static_cast<unsigned long long>(total));
  return static_cast<int>(total % 100);
}
