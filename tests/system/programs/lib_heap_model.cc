// SPDX-License-Identifier: MIT
/* crtest: mode=cycles,live,lazy kill=later users=root,nobody
 *
 * The model test of crmalloc and its family, see heap_model.h. At the end the heap's own records
 * agree with each other, and its live blocks are exactly those of the model.
 */
#include <checkpoint_restore.h>

#include <algorithm>
#include <vector>

#include "heap_model.h"

namespace {

struct Crmalloc {
  static void* allocate(size_t bytes) { return crmalloc(bytes); }
  static void* allocate_zeroed(size_t count, size_t bytes) { return crcalloc(count, bytes); }
  static void* allocate_aligned(size_t align, size_t bytes) {
    return craligned_alloc(align, (bytes + align - 1) & ~(align - 1));
  }
  static void* resize(void* block, size_t bytes) { return crrealloc(block, bytes); }
  static void release(void* block) { crfree(block); }
  static size_t usable_bytes(void* block) { return crmalloc_usable_size(block); }
};
using Game = heap_model::Game<Crmalloc>;
using Blocks = std::vector<std::pair<void*, size_t>>;

void look(unsigned threads) {
  const char* broken = crheap_check();
  if (broken != nullptr) dprintf(STDOUT_FILENO, "crheap_check: %s\n", broken);
  CHECK("the heap's records agree", broken == nullptr);
  Blocks expected, found;
  auto expect = [&expected](const cr_test::Live* from, size_t count) {
    for (size_t i = 0; i < count; i++) {
      if (from[i].block != nullptr) expected.emplace_back(from[i].block, from[i].bytes);
    }
  };
  for (unsigned i = 0; i < threads; i++) {
    expect(Game::players[i]->slots(), Game::Player::kMostSlots);
  }
  expect(Game::exchange.slots(), cr_test::Exchange::kSlots);
  std::sort(expected.begin(), expected.end());
  crheap_walk(
      [](void* block, size_t bytes, void* to) {
        static_cast<Blocks*>(to)->emplace_back(block, bytes);
        return 0;
      },
      &found);
  CHECK_EQ("live blocks", expected.size(), found.size());
  CHECK("the live blocks are those of the model", expected == found);
}

}  // namespace

int main() {
  Game::run(look);
  struct crheap_stats st = {};
  st.size = sizeof(st);
  CHECK_EQ("crheap_stats", 0, crheap_stats(&st));
  CHECK_EQ("bytes of live blocks", 0, st.small_bytes + st.large_bytes);
  CHECK("the empty heap's records agree", crheap_check() == nullptr);
  test_finish();
}
