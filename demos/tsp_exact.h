/* SPDX-License-Identifier: MIT */
/*
 * tsp_exact.h - the travelling salesman by branch and bound: the shortest tour, and the proof.
 *
 * The bound is in tsp_bound.h. A node branches at a city with more than two edges in its 1-tree, by
 * demanding or banning two of them (Volgenant and Jonker, "A branch and bound algorithm for the
 * symmetric traveling salesman problem based on the 1-tree relaxation", 1982). Work goes in rounds:
 * a batch of open nodes is expanded against the best tour known when the round began, and merged in
 * order, so that the search is the same with any number of threads. Nodes are separate blocks from
 * the nvheap, made by all threads and often freed by another.
 *
 * Context: normal code (docs/contexts.md, N). Used by tsp.cc.
 */
#ifndef DEMOS_TSP_EXACT_H
#define DEMOS_TSP_EXACT_H

#include "tsp_anneal.h"
#include "tsp_bound.h"

namespace cr::demo {

struct ExactSettings {
  uint64_t pool_mib = 64; /* of open nodes; with more the search goes deep instead of wide */
};

class ExactSolver {
 public:
  ExactSolver(Memory kind, const Instance& instance, const ExactSettings& s, unsigned threads)
      : instance_(instance),
        s_(s),
        kind_(kind),
        solvers_(kind, threads),
        batch_(kind, kBatch),
        children_(kind, kBatch * kBranches),
        outcomes_(kind, kBatch * kBranches),
        tours_(kind, kBatch * kBranches * instance.cities()),
        best_tour_(kind, instance.cities()) {
    for (unsigned i = 0; i < threads; ++i) new (&solvers_[i]) BoundSolver(kind, instance);
    size_t most = (size_t(s.pool_mib) << 20) / solvers_[0].node_bytes();
    limit_ = most > kBatch ? most : kBatch;
  }
  ExactSolver(const ExactSolver&) = delete;
  ExactSolver& operator=(const ExactSolver&) = delete;
  ~ExactSolver() {
    for (size_t i = 0; i < open_count_; ++i) give_back(kind_, open_[i]);
    if (open_) give_back(kind_, open_);
    for (size_t i = 0; i < solvers_.size(); ++i) solvers_[i].~BoundSolver();
  }

  /* Thread `number` of the team; first: any tour; session: nullptr for silence. */
  void run(Team& team, unsigned number, const Tour& first, Session* session) {
    if (number == 0) plant(first);
    team.barrier();
    for (;;) {
      if (number == 0) fill_batch();
      team.barrier();
      if (batch_count_ == 0) break;
      team.share(number, batch_count_, [&](size_t i) { expand(solvers_[number], i); });
      if (number == 0) {
        merge();
        ++rounds_;
        if (session) {
          if (rounds_ % kReportRounds == 0)
            printf("round %llu: %llu nodes done, %llu open, %.3f %% to prove, best tour %lld\n",
                   (unsigned long long)rounds_, (unsigned long long)done_,
                   (unsigned long long)open_count_, gap_percent(), (long long)best_);
          session->iteration_done(rounds_);
        }
      }
      team.barrier();
    }
  }

  int64_t best() const { return best_; }
  const Buffer<uint32_t>& best_tour() const { return best_tour_; }
  uint64_t nodes() const { return done_; }

  bool same_as(const ExactSolver& other) const {
    return best_ == other.best_ && done_ == other.done_ && rounds_ == other.rounds_ &&
           made_ == other.made_ && same_bits(best_tour_, other.best_tour_);
  }

 private:
  static constexpr size_t kBatch = 64;
  static constexpr size_t kBranches = 3;
  static constexpr uint64_t kReportRounds = 8;
  static constexpr unsigned kRootSteps = 1000;
  static constexpr unsigned kChildSteps = 40;

  Node* new_node() { return static_cast<Node*>(get_zeroed(kind_, 1, solvers_[0].node_bytes())); }

  /* The root of the search tree. */
  void plant(const Tour& first) {
    memcpy(best_tour_.data(), first.order().data(), best_tour_.size_bytes());
    best_ = first.length();
    Node* root = new_node();
    BoundSolver::Outcome outcome = solvers_[0].raise(root, best_, kRootSteps, 1.0);
    if (outcome == BoundSolver::kOpen) {
      push(root);
      return;
    }
    if (outcome == BoundSolver::kTour) {
      solvers_[0].store_tour(tour_slot(0));
      accept(tour_slot(0));
    }
    give_back(kind_, root);
  }

  /* Which of two nodes waits longer: widely the one with the higher bound, deeply the shallower
   * one. The number given at birth makes the order total. */
  bool after(const Node* a, const Node* b) const {
    if (deep_ && a->depth != b->depth) return a->depth < b->depth;
    if (a->bound != b->bound) return a->bound > b->bound;
    return a->id > b->id;
  }

  void push(Node* node) {
    if (open_count_ == open_room_) {
      open_room_ = open_room_ ? 2 * open_room_ : 1024;
      open_ = static_cast<Node**>(grow(kind_, open_, open_room_ * sizeof *open_));
    }
    node->id = made_++;
    open_[open_count_++] = node;
    std::push_heap(open_, open_ + open_count_, [this](Node* a, Node* b) { return after(a, b); });
  }

  void fill_batch() {
    auto order = [this](Node* a, Node* b) { return after(a, b); };
    bool deep = open_count_ > (deep_ ? limit_ / 2 : limit_);
    if (deep != deep_) {
      deep_ = deep;
      std::make_heap(open_, open_ + open_count_, order);
    }
    batch_count_ = 0;
    while (batch_count_ < kBatch && open_count_ > 0) {
      std::pop_heap(open_, open_ + open_count_, order);
      Node* node = open_[--open_count_];
      if (ceil(node->bound - 1e-4) >= double(best_))
        give_back(kind_, node);
      else
        batch_[batch_count_++] = node;
    }
  }

  /* Makes the children of node i of the batch. */
  void expand(BoundSolver& solver, size_t i) {
    Node* node = batch_[i];
    solver.rebuild(node);
    size_t n = instance_.cities(), city = 0;
    for (size_t c = 1; c < n; ++c)
      if (solver.degree(c) > solver.degree(city)) city = c;
    size_t ends[2] = {n, n};
    choose_edges(solver, node, city, ends);
    bool demanded = solver.count(solver.must(node), city) > 0;
    for (size_t b = 0; b < kBranches; ++b) {
      outcomes_[i * kBranches + b] = BoundSolver::kDropped;
      if (b == 2 && demanded) continue;
      Node* child = new_node();
      memcpy(static_cast<void*>(child), node, solver.node_bytes());
      child->depth = node->depth + 1;
      solver.put(b == 0 ? solver.ban(child) : solver.must(child), city, ends[0]);
      if (b != 0 && !demanded)
        solver.put(b == 1 ? solver.ban(child) : solver.must(child), city, ends[1]);
      judge(solver, child, i * kBranches + b);
    }
  }

  /* Of the city's edges in the 1-tree that are not demanded yet, the two shortest. */
  void choose_edges(BoundSolver& solver, Node* node, size_t city, size_t* ret_ends) const {
    size_t n = instance_.cities();
    for (size_t e = 0; e < n; ++e) {
      size_t a, b;
      solver.tree_edge(e, &a, &b);
      if (a != city && b != city) continue;
      size_t other = a == city ? b : a;
      if (solver.has(solver.must(node), city, other)) continue;
      if (ret_ends[0] == n || closer(city, other, ret_ends[0])) {
        ret_ends[1] = ret_ends[0];
        ret_ends[0] = other;
      } else if (ret_ends[1] == n || closer(city, other, ret_ends[1])) {
        ret_ends[1] = other;
      }
    }
  }

  bool closer(size_t city, size_t a, size_t b) const {
    return instance_.distance(city, a) < instance_.distance(city, b);
  }

  /* Bounds a child and leaves it, or the tour that it has become, in its slot. */
  void judge(BoundSolver& solver, Node* child, size_t slot) {
    double inherited = child->bound;
    BoundSolver::Outcome outcome = BoundSolver::kDropped;
    if (solver.conclude(child)) outcome = solver.raise(child, best_, kChildSteps, 0.3);
    outcomes_[slot] = outcome;
    if (outcome == BoundSolver::kOpen) {
      child->bound = std::max(child->bound, inherited);
      children_[slot] = child;
      return;
    }
    if (outcome == BoundSolver::kTour) solver.store_tour(tour_slot(slot));
    give_back(kind_, child);
  }

  /* Takes over what the team has found, in the order of the slots. */
  void merge() {
    for (size_t slot = 0; slot < batch_count_ * kBranches; ++slot) {
      if (outcomes_[slot] == BoundSolver::kTour) accept(tour_slot(slot));
      if (outcomes_[slot] == BoundSolver::kOpen) push(children_[slot]);
    }
    for (size_t i = 0; i < batch_count_; ++i) give_back(kind_, batch_[i]);
    done_ += batch_count_;
  }

  uint32_t* tour_slot(size_t slot) { return tours_.data() + slot * instance_.cities(); }

  void accept(const uint32_t* tour) {
    int64_t length = instance_.tour_length(tour);
    if (length >= best_) return;
    best_ = length;
    memcpy(best_tour_.data(), tour, best_tour_.size_bytes());
  }

  double gap_percent() const {
    double lowest = double(best_);
    for (size_t i = 0; i < open_count_; ++i) lowest = std::min(lowest, open_[i]->bound);
    return 100.0 * (double(best_) - lowest) / double(best_);
  }

  const Instance& instance_;
  ExactSettings s_;
  Memory kind_;
  Buffer<BoundSolver> solvers_;
  Buffer<Node*> batch_;
  Buffer<Node*> children_;   /* [place in the batch][branch] */
  Buffer<uint8_t> outcomes_; /* [place in the batch][branch] */
  Buffer<uint32_t> tours_;   /* [place in the batch][branch][city] */
  Buffer<uint32_t> best_tour_;
  Node** open_ = nullptr;
  size_t open_count_ = 0, open_room_ = 0, batch_count_ = 0, limit_ = 0;
  int64_t best_ = 0;
  uint64_t done_ = 0, rounds_ = 0, made_ = 0;
  bool deep_ = false;
};

}  // namespace cr::demo

#endif /* DEMOS_TSP_EXACT_H */
