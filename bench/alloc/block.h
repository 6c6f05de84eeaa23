// SPDX-License-Identifier: MIT
// block.h - what the patterns of alloc_bench.cc share: random numbers, blocks that prove that their
// bytes are still theirs, tables outside of the heap, and the places where threads swap blocks.
// Invariant: each block carries a tag made from its address and size at its first and last byte and
// at one byte per page; a block whose tag is gone when it is freed, moved or handed on ends the
// program with status 3. So two blocks that overlap do not stay unseen.
// Context: an ordinary program; all that is measured goes through plain malloc, realloc, free.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <atomic>
#include <span>
#include <thread>
#include <utility>

namespace alloc_bench {

[[noreturn]] inline void fail(const char* what, const void* at, size_t size) {
  fprintf(stderr, "alloc_bench: %s: block %p of %zu bytes\n", what, at, size);
  _Exit(3);
}

// xorshift64* by Marsaglia and Vigna: small, and the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) { next(); }

  uint32_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 0x2545f4914f6cdd1du) >> 32);
  }
  uint32_t below(uint32_t limit) {
    return static_cast<uint32_t>((static_cast<uint64_t>(next()) * limit) >> 32);
  }
  uint32_t range(uint32_t low, uint32_t high) { return low + below(high - low + 1); }

  // Each power of two between 2^low_bits and 2^high_bits equally often, uniform within it.
  uint32_t log_uniform(uint32_t low_bits, uint32_t high_bits) {
    const uint32_t base = 1u << range(low_bits, high_bits - 1);
    return base + below(base);
  }

 private:
  uint64_t state_;
};

struct Block {
  unsigned char* data = nullptr;
  size_t size = 0;
};

inline unsigned char tag_of(Block block) {
  const uint64_t hash =
      (reinterpret_cast<uintptr_t>(block.data) + block.size) * 0x9e3779b97f4a7c15u;
  return static_cast<unsigned char>(hash >> 56);
}

inline void mark(Block block) {
  const unsigned char tag = tag_of(block);
  for (size_t at = 4096; at + 1 < block.size; at += 4096) block.data[at] = tag;
  block.data[0] = tag;
  block.data[block.size - 1] = tag;
}

inline void check(Block block) {
  const unsigned char tag = tag_of(block);
  bool whole = block.data[0] == tag && block.data[block.size - 1] == tag;
  for (size_t at = 4096; at + 1 < block.size; at += 4096) whole &= block.data[at] == tag;
  if (!whole) fail("somebody wrote into it", block.data, block.size);
}

inline Block make_block(size_t size) {
  Block block{static_cast<unsigned char*>(malloc(size)), size};
  if (block.data == nullptr) fail("malloc failed", nullptr, size);
  if (size >= 16 && reinterpret_cast<uintptr_t>(block.data) % 16 != 0) {
    fail("not aligned", block.data, size);
  }
  mark(block);
  return block;
}

// Frees the block; one that is not there is none of its business.
inline void drop(Block& block) {
  if (block.data == nullptr) return;
  check(block);
  free(block.data);
  block = {};
}

// realloc; what it must keep is checked with the tag of the old address.
inline void resize(Block& block, size_t size) {
  check(block);
  const unsigned char tag = tag_of(block);
  const size_t old_size = block.size;
  auto* data = static_cast<unsigned char*>(realloc(block.data, size));
  if (data == nullptr) fail("realloc failed", block.data, size);
  bool kept = data[0] == tag && (size < old_size || data[old_size - 1] == tag);
  for (size_t at = 4096; at + 1 < (size < old_size ? size : old_size); at += 4096) {
    kept &= data[at] == tag;
  }
  if (!kept) fail("realloc lost the content", data, size);
  block = {data, size};
  mark(block);
}

// Zeroed memory that the allocator under test has nothing to do with.
template <typename T>
std::span<T> table(size_t count) {
  void* at =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) fail("mmap failed", nullptr, count * sizeof(T));
  return {static_cast<T*>(at), count};
}

// Places where threads leave blocks of less than 64 KiB for each other, without a lock.
class SwapTable {
 public:
  explicit SwapTable(size_t count) : places_(table<std::atomic<uint64_t>>(count)) {}

  // Leaves `block` (may be none) and takes what was there (may be none).
  Block swap(size_t place, Block block) {
    const uint64_t word =
        reinterpret_cast<uintptr_t>(block.data) | static_cast<uint64_t>(block.size) << 48;
    const uint64_t old = places_[place].exchange(word, std::memory_order_acq_rel);
    return {reinterpret_cast<unsigned char*>(old & ((1ull << 48) - 1)), old >> 48};
  }
  size_t size() const { return places_.size(); }
  void drop_all() {
    for (size_t i = 0; i < size(); i++) {
      Block block = swap(i, {});
      drop(block);
    }
  }

 private:
  std::span<std::atomic<uint64_t>> places_;
};

// Runs body(0) .. body(count - 1), each in a thread of its own, to their ends.
template <typename F>
void in_threads(int count, F body) {
  constexpr int kMost = 16;
  std::thread threads[kMost];
  for (int i = 0; i < count && i < kMost; i++) threads[i] = std::thread(body, i);
  for (std::thread& thread : threads) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace alloc_bench
