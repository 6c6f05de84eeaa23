// SPDX-License-Identifier: MIT
// treap.h - an ordered tree whose nodes are records of an array, linked by their indexes.
// Invariant: nodes are ordered by index, heap-ordered by a hash of the index (R. Seidel, C. Aragon,
// "Randomized Search Trees", 1996), so the depth is about 2 log2 n whatever the order of calls; and
// Nodes::update has been called on each node since its subtrees last changed.
// Context: N, under the caller's lock.
#pragma once

#include <cstdint>

#include "nvheap/heap_layout.h"

namespace cr::nvheap {

// Nodes is a small value with left(i), right(i) -> uint32_t& and update(i).
template <typename Nodes>
class Treap {
 public:
  explicit Treap(Nodes nodes) : n_(nodes) {}

  [[nodiscard]] uint32_t insert(uint32_t root, uint32_t node) {
    if (root == kNil || priority(node) > priority(root)) {
      split(root, node, &n_.left(node), &n_.right(node));
      n_.update(node);
      return node;
    }
    if (node < root) {
      n_.left(root) = insert(n_.left(root), node);
    } else {
      n_.right(root) = insert(n_.right(root), node);
    }
    n_.update(root);
    return root;
  }

  // The node must be in the tree.
  [[nodiscard]] uint32_t erase(uint32_t root, uint32_t node) {
    if (root == node) return merge(n_.left(root), n_.right(root));
    if (node < root) {
      n_.left(root) = erase(n_.left(root), node);
    } else {
      n_.right(root) = erase(n_.right(root), node);
    }
    n_.update(root);
    return root;
  }

  uint32_t lowest(uint32_t root) {
    if (root == kNil) return kNil;
    while (n_.left(root) != kNil) root = n_.left(root);
    return root;
  }

  // The greatest node below `index`.
  uint32_t predecessor(uint32_t root, uint32_t index) {
    uint32_t best = kNil;
    while (root != kNil) {
      if (root < index) {
        best = root;
        root = n_.right(root);
      } else {
        root = n_.left(root);
      }
    }
    return best;
  }

 private:
  // A one-to-one mixing of 32 bits, so that no two nodes have equal priority.
  static uint32_t priority(uint32_t i) {
    i ^= i >> 16;
    i *= 0x7feb352du;
    i ^= i >> 15;
    i *= 0x846ca68bu;
    return i ^ (i >> 16);
  }

  void split(uint32_t root, uint32_t index, uint32_t* ret_below, uint32_t* ret_above) {
    if (root == kNil) {
      *ret_below = *ret_above = kNil;
    } else if (root < index) {
      uint32_t below = kNil;
      split(n_.right(root), index, &below, ret_above);
      n_.right(root) = below;
      n_.update(root);
      *ret_below = root;
    } else {
      uint32_t above = kNil;
      split(n_.left(root), index, ret_below, &above);
      n_.left(root) = above;
      n_.update(root);
      *ret_above = root;
    }
  }

  uint32_t merge(uint32_t below, uint32_t above) {
    if (below == kNil) return above;
    if (above == kNil) return below;
    if (priority(below) > priority(above)) {
      n_.right(below) = merge(n_.right(below), above);
      n_.update(below);
      return below;
    }
    n_.left(above) = merge(below, n_.left(above));
    n_.update(above);
    return above;
  }

  Nodes n_;
};

}  // namespace cr::nvheap
