/* SPDX-License-Identifier: MIT */
/*
 * tsp_bound.h - a lower bound for the travelling salesman: the minimum 1-tree with prices on the
 * cities, raised by subgradient steps (Held and Karp, "The traveling-salesman problem and minimum
 * spanning trees", 1971).
 *
 * Invariant: a 1-tree's weight, less twice the sum of the prices, is at most the length of every
 * tour that has the node's demanded edges and none of its banned ones.
 *
 * Context: normal code (docs/contexts.md, N). Used by tsp_exact.h.
 */
#ifndef DEMOS_TSP_BOUND_H
#define DEMOS_TSP_BOUND_H

#include "tsp_instance.h"

namespace cr::demo {

/* One subproblem: the edges that a tour must have and must not have. Followed in memory by the
 * cities' prices and the two sets of edges, as bits. */
struct Node {
  double bound;
  uint64_t id;
  uint64_t depth;
};

/* The 1-tree and the prices of one thread. */
class BoundSolver {
 public:
  BoundSolver(Memory kind, const Instance& instance)
      : instance_(instance),
        n_(instance.cities()),
        words_((n_ + 63) / 64),
        cost_(kind, n_ * n_),
        key_(kind, n_),
        link_(kind, n_),
        degree_(kind, n_),
        old_degree_(kind, n_),
        trial_(kind, n_),
        pairs_(kind, 2 * n_) {}

  static constexpr double kUnknown = -1e300;
  enum Outcome { kDropped, kOpen, kTour };

  size_t node_bytes() const { return sizeof(Node) + (n_ + 2 * n_ * words_) * 8; }
  double* prices(Node* node) const { return reinterpret_cast<double*>(node + 1); }
  uint64_t* must(Node* node) const { return reinterpret_cast<uint64_t*>(prices(node) + n_); }
  uint64_t* ban(Node* node) const { return must(node) + n_ * words_; }
  bool has(const uint64_t* set, size_t a, size_t b) const {
    return (set[a * words_ + b / 64] >> (b % 64)) & 1;
  }
  void put(uint64_t* set, size_t a, size_t b) const {
    set[a * words_ + b / 64] |= uint64_t{1} << (b % 64);
    set[b * words_ + a / 64] |= uint64_t{1} << (a % 64);
  }
  size_t count(const uint64_t* set, size_t city) const {
    size_t bits = 0;
    for (size_t w = 0; w < words_; ++w)
      bits += size_t(__builtin_popcountll(set[city * words_ + w]));
    return bits;
  }

  /* Draws the conclusions from what the node demands and bans; false: no tour can obey. */
  bool conclude(Node* node) {
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t city = 0; city < n_; ++city)
        if (!conclude_at(node, city, &changed)) return false;
      for (size_t city = 0; city < n_; ++city)
        if (!close_path(node, city, &changed)) return false;
    }
    return true;
  }

  /* Raises the node's bound by at most `steps` steps; drops it when no tour below `best` is left.
   * kTour: the 1-tree is a tour, see store_tour(). */
  Outcome raise(Node* node, int64_t best, unsigned steps, double stride) {
    load_costs(node);
    node->bound = kUnknown;
    memcpy(trial_.data(), prices(node), n_ * sizeof(double));
    unsigned since_better = 0;
    for (unsigned step = 0; step < steps; ++step) {
      double bound;
      if (!build_tree(trial_.data(), &bound)) return kDropped;
      if (bound > node->bound) {
        node->bound = bound;
        memcpy(prices(node), trial_.data(), n_ * sizeof(double));
        since_better = 0;
      } else if (++since_better >= 5) {
        stride *= 0.6;
        since_better = 0;
      }
      if (ceil(node->bound - 1e-4) >= double(best)) return kDropped;
      int64_t badness = 0;
      for (size_t city = 0; city < n_; ++city)
        badness += int64_t(degree_[city] - 2) * (degree_[city] - 2);
      if (badness == 0) return kTour;
      double length = stride * (double(best) - bound) / double(badness);
      for (size_t city = 0; city < n_; ++city) {
        int before = step == 0 ? degree_[city] : old_degree_[city];
        trial_[city] += length * (0.7 * (degree_[city] - 2) + 0.3 * (before - 2));
        old_degree_[city] = degree_[city];
      }
    }
    return kOpen;
  }

  /* The minimum 1-tree of the node at its best prices. */
  void rebuild(Node* node) {
    double bound;
    load_costs(node);
    (void)build_tree(prices(node), &bound);
  }

  /* Edge i of the last 1-tree, i < number of cities. */
  void tree_edge(size_t i, size_t* ret_a, size_t* ret_b) const {
    *ret_a = i < 2 ? 0 : i;
    *ret_b = i < 2 ? ends_[i] : link_[i];
  }
  int degree(size_t city) const { return degree_[city]; }

  /* The last 1-tree, when it is a tour, as the order of its cities. */
  void store_tour(uint32_t* ret_tour) {
    for (size_t city = 0; city < n_; ++city) old_degree_[city] = 0;
    for (size_t i = 0; i < n_; ++i) {
      size_t a, b;
      tree_edge(i, &a, &b);
      pairs_[2 * a + size_t(old_degree_[a]++)] = uint32_t(b);
      pairs_[2 * b + size_t(old_degree_[b]++)] = uint32_t(a);
    }
    uint32_t before = 0, here = 0;
    for (size_t i = 0; i < n_; ++i) {
      ret_tour[i] = here;
      uint32_t next =
          pairs_[2 * here] != before || i == 0 ? pairs_[2 * here] : pairs_[2 * here + 1];
      before = here;
      here = next;
    }
  }

 private:
  static constexpr double kFar = 1e12; /* dearer than any tour */

  bool conclude_at(Node* node, size_t city, bool* changed) {
    uint64_t *musts = must(node), *bans = ban(node);
    size_t demanded = count(musts, city), allowed = n_ - 1 - count(bans, city);
    if (demanded > 2 || allowed < 2) return false;
    bool full = demanded == 2 && allowed > 2, scarce = allowed == 2 && demanded < 2;
    if (!full && !scarce) return true;
    for (size_t other = 0; other < n_; ++other) {
      if (other == city || has(musts, city, other) || has(bans, city, other)) continue;
      put(full ? bans : musts, city, other);
      *changed = true;
    }
    return true;
  }

  /* If a path of demanded edges begins at `city`, its ends must not meet too early. */
  bool close_path(Node* node, size_t city, bool* changed) {
    uint64_t *musts = must(node), *bans = ban(node);
    if (count(musts, city) == 0) return true;
    size_t before = n_, here = city, edges = 0;
    for (;;) {
      size_t next = n_;
      for (size_t other = 0; other < n_ && next == n_; ++other)
        if (other != before && has(musts, here, other)) next = other;
      if (next == n_) break;
      before = here;
      here = next;
      ++edges;
      if (here == city) return edges == n_; /* closed: good only as a whole tour */
    }
    bool is_end = count(musts, city) == 1;
    if (is_end && edges > 1 && edges < n_ - 1 && !has(bans, city, here)) {
      put(bans, city, here);
      *changed = true;
    }
    return true;
  }

  void load_costs(Node* node) {
    const uint64_t *musts = must(node), *bans = ban(node);
    for (size_t a = 0; a < n_; ++a)
      for (size_t b = 0; b < n_; ++b) {
        double shift = has(musts, a, b) ? -kFar : has(bans, a, b) ? kFar : 0;
        cost_[a * n_ + b] = double(instance_.distance(a, b)) + shift;
      }
  }

  /* Prim's algorithm over the cities from 1 on, and the two cheapest edges at city 0.
   * False: a banned edge is needed, so there is no tour. */
  bool build_tree(const double* price, double* ret_bound) {
    double weight = 0;
    for (size_t i = 0; i < n_; ++i) {
      key_[i] = INFINITY;
      degree_[i] = 0;
      weight -= 2 * price[i];
    }
    bool possible = true;
    size_t here = 1;
    for (size_t added = 2; added < n_; ++added) {
      const double* row = cost_.data() + here * n_;
      key_[here] = -INFINITY; /* in the tree */
      size_t nearest = 0;
      double nearest_key = INFINITY;
      for (size_t other = 1; other < n_; ++other) {
        double through = row[other] + price[here] + price[other];
        if (through < key_[other]) {
          key_[other] = through;
          link_[other] = uint32_t(here);
        }
        if (key_[other] != -INFINITY && key_[other] < nearest_key) {
          nearest_key = key_[other];
          nearest = other;
        }
      }
      here = nearest;
      weight += take(link_[here], here, price, &possible);
    }
    ends_[0] = cheapest_at_0(price, 0);
    ends_[1] = cheapest_at_0(price, ends_[0]);
    weight += take(0, ends_[0], price, &possible);
    weight += take(0, ends_[1], price, &possible);
    *ret_bound = weight;
    return possible;
  }

  /* Puts an edge into the tree. Its weight comes from the plain distance: adding and taking away
   * kFar would cost precision. */
  double take(size_t a, size_t b, const double* price, bool* possible) {
    ++degree_[a];
    ++degree_[b];
    if (cost_[a * n_ + b] > kFar / 2) *possible = false;
    return double(instance_.distance(a, b)) + price[a] + price[b];
  }

  uint32_t cheapest_at_0(const double* price, uint32_t except) const {
    uint32_t best = 0;
    for (uint32_t other = 1; other < n_; ++other)
      if (other != except && (best == 0 || cost_[other] + price[other] < cost_[best] + price[best]))
        best = other;
    return best;
  }

  const Instance& instance_;
  size_t n_;
  size_t words_;
  Buffer<double> cost_; /* [city][city], moved by kFar where demanded or banned */
  Buffer<double> key_;
  Buffer<uint32_t> link_; /* each city's edge towards city 1 */
  Buffer<int32_t> degree_, old_degree_;
  Buffer<double> trial_;
  Buffer<uint32_t> pairs_; /* each city's two neighbours in a tour */
  uint32_t ends_[2] = {0, 0};
};

}  // namespace cr::demo

#endif /* DEMOS_TSP_BOUND_H */
