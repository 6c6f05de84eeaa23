// SPDX-License-Identifier: MIT
// treap_test.cc - the ordered tree against a plain array of flags.
// Invariant under test: order, augmentation and shallow depth after any sequence of changes.
#include "nvheap/treap.h"

#include <criterion/criterion.h>

#include "tests/unit/nvheap/random.h"

using cr::nvheap::kNil;

namespace {

constexpr uint32_t kSize = 1024;
struct Node {
  uint32_t left, right, count;
};
Node g_nodes[kSize];
bool g_present[kSize];

struct Nodes {
  uint32_t& left(uint32_t i) const { return g_nodes[i].left; }
  uint32_t& right(uint32_t i) const { return g_nodes[i].right; }
  void update(uint32_t i) const {
    g_nodes[i].count = 1 + (left(i) == kNil ? 0 : g_nodes[left(i)].count) +
                       (right(i) == kNil ? 0 : g_nodes[right(i)].count);
  }
};

// Visits in order, checks the augmentation, returns the depth.
uint32_t check_tree(uint32_t root, uint32_t* next) {
  if (root == kNil) return 0;
  const uint32_t l = check_tree(g_nodes[root].left, next);
  while (*next < root) cr_assert_not(g_present[(*next)++], "a node is missing");
  cr_assert_eq(*next, root, "wrong order");
  cr_assert(g_present[(*next)++]);
  const uint32_t r = check_tree(g_nodes[root].right, next);
  const uint32_t count = g_nodes[root].count;
  Nodes().update(root);
  cr_assert_eq(g_nodes[root].count, count);
  return 1 + (l > r ? l : r);
}

}  // namespace

Test(treap, behaves_as_a_set) {
  cr_test::Random random(cr_test::test_seed());
  cr::nvheap::Treap tree{Nodes{}};
  uint32_t root = kNil;
  for (int step = 0; step < 40000; step++) {
    const auto i = static_cast<uint32_t>(random.below(kSize));
    if (g_present[i]) {
      root = tree.erase(root, i);
    } else {
      g_nodes[i] = {kNil, kNil, 0};
      root = tree.insert(root, i);
    }
    g_present[i] = !g_present[i];
    uint32_t below = kNil, lowest = kNil;
    for (uint32_t k = kSize; k-- > 0;) {
      if (g_present[k]) lowest = k;
      if (g_present[k] && k < i && below == kNil) below = k;
    }
    cr_assert_eq(tree.lowest(root), lowest);
    cr_assert_eq(tree.predecessor(root, i), below);
    if (step % 1000 == 0) {
      uint32_t next = 0;
      check_tree(root, &next);
    }
  }
}

Test(treap, is_shallow_when_filled_in_order) {
  cr::nvheap::Treap tree{Nodes{}};
  uint32_t root = kNil;
  for (uint32_t i = 0; i < kSize; i++) {
    g_nodes[i] = {kNil, kNil, 0};
    g_present[i] = true;
    root = tree.insert(root, i);
  }
  uint32_t next = 0;
  cr_assert_leq(check_tree(root, &next), 40u);
}
