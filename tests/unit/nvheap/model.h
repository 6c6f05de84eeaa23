// SPDX-License-Identifier: MIT
// model.h - random operations on an allocator, checked against a model of it: a table of the blocks
// that must be alive, each filled with a pattern of its own.
// Invariant under test: blocks keep their bytes, never overlap, are aligned and as large as asked
// for; calloc's are zero, realloc's keep what they had.
// Context: ordinary code, any number of threads with a Player each. Memory is the allocator's own.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "random.h"

namespace cr_test {

struct Live {
  unsigned char* block;
  size_t bytes;  // all that is said to be usable
  uint64_t tag;
};

inline void fill(const Live& l) {
  for (size_t i = 0; i + 8 <= l.bytes; i += 8) memcpy(l.block + i, &l.tag, 8);
  for (size_t i = l.bytes & ~size_t{7}; i < l.bytes; i++) l.block[i] = static_cast<uint8_t>(l.tag);
}
inline bool is_intact(const Live& l, size_t bytes) {
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    if (memcmp(l.block + i, &l.tag, 8) != 0) return false;
  }
  for (size_t i = l.bytes & ~size_t{7}; i < bytes; i++) {
    if (l.block[i] != static_cast<uint8_t>(l.tag)) return false;
  }
  return true;
}

inline size_t random_bytes(Random& random) {
  switch (random.below(20)) {
    case 0:
      return random.below(600 * 1024);
    case 1:
    case 2:
      return random.below(70 * 1024);
    case 3:
    case 4:
    case 5:
      return random.below(5000);
    default:
      return random.below(300);
  }
}

// Blocks that go from one player to another, who then frees them.
class Exchange {
 public:
  static constexpr uint64_t kSlots = 128;
  void swap(Live& l, uint64_t slot) {
    pthread_mutex_lock(&mutex_);
    const Live other = slots_[slot];
    slots_[slot] = l;
    l = other;
    pthread_mutex_unlock(&mutex_);
  }
  Live* slots() { return slots_; }

 private:
  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  Live slots_[kSlots] = {};
};

// Heap: static functions allocate, allocate_zeroed, allocate_aligned(align, bytes), resize,
// release, usable_bytes. All calls return what is wrong, or nullptr.
template <typename Heap>
class Player {
 public:
  static constexpr int kMostSlots = 2000;
  int steps = 0;  // for whoever wants to keep a number here
  // exchange may be null. 0 < slots <= kMostSlots
  Player(uint64_t seed, int slots, Exchange* exchange = nullptr)
      : random_(seed), slots_(slots), exchange_(exchange) {}

  const char* play(int count) {
    for (int i = 0; i < count; i++) {
      if (const char* wrong = step(live_[random_.below(static_cast<uint64_t>(slots_))])) {
        return wrong;
      }
    }
    return nullptr;
  }
  const char* check_all() const {
    for (const Live& l : live_) {
      if (l.block != nullptr && !is_intact(l, l.bytes)) return kChanged;
    }
    return nullptr;
  }
  const char* finish() {
    for (Live& l : live_) {
      if (const char* wrong = drop(l)) return wrong;
    }
    return nullptr;
  }
  static const char* drop(Live& l) {
    if (l.block != nullptr && !is_intact(l, l.bytes)) return kChanged;
    Heap::release(l.block);
    l = {};
    return nullptr;
  }
  const Live* slots() const { return live_; }

 private:
  static constexpr const char* kChanged = "a block was changed";

  const char* step(Live& l) {
    if (l.block == nullptr) return make(l);
    if (!is_intact(l, l.bytes)) return kChanged;
    if (random_.one_in(3)) return resize(l);
    if (exchange_ != nullptr && random_.one_in(4)) {
      exchange_->swap(l, random_.below(Exchange::kSlots));
      return nullptr;
    }
    return drop(l);
  }
  const char* make(Live& l) {
    const size_t bytes = random_bytes(random_);
    const uint64_t how = random_.below(6);
    size_t align_bytes = 16;
    void* p;
    if (how < 2) {
      p = Heap::allocate_zeroed(1, bytes);
    } else if (how == 2) {
      align_bytes = size_t{16} << random_.below(10);
      p = Heap::allocate_aligned(align_bytes, bytes);
    } else {
      p = Heap::allocate(bytes);
    }
    auto* block = static_cast<unsigned char*>(p);
    if (block == nullptr) return "no memory";
    if (reinterpret_cast<uintptr_t>(block) % align_bytes != 0) return "not aligned as asked for";
    for (size_t i = 0; how < 2 && i < bytes; i++) {
      if (block[i] != 0) return "calloc: not zero";
    }
    return accept(l, block, bytes);
  }
  const char* resize(Live& l) {
    const size_t bytes = 1 + random_bytes(random_);
    auto* p = static_cast<unsigned char*>(Heap::resize(l.block, bytes));
    if (p == nullptr) return "no memory";
    l.block = p;
    if (!is_intact(l, bytes < l.bytes ? bytes : l.bytes)) return "realloc lost content";
    return accept(l, p, bytes);
  }
  const char* accept(Live& l, unsigned char* p, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return "not aligned to 16";
    if (Heap::usable_bytes(p) < bytes) return "too small";
    l = {p, Heap::usable_bytes(p), random_.next()};
    fill(l);
    return nullptr;
  }

  Random random_;
  int slots_;
  Exchange* exchange_;
  Live live_[kMostSlots] = {};
};

}  // namespace cr_test
