/* SPDX-License-Identifier: MIT */
/*
 * tsp_anneal.h - the travelling salesman by simulated annealing (Kirkpatrick, Gelatt and Vecchi,
 * "Optimization by simulated annealing", 1983): a good tour through many cities.
 *
 * A fixed number of chains cool down side by side; every few rounds the worst goes on from the best
 * one's tour. Each chain has its own random numbers and in each round belongs to one thread, so the
 * tours are the same with any number of threads.
 *
 * Context: normal code (docs/contexts.md, N). Used by tsp.cc and, for a first tour, by tsp_exact.h.
 */
#ifndef DEMOS_TSP_ANNEAL_H
#define DEMOS_TSP_ANNEAL_H

#include <new>

#include "tsp_instance.h"

namespace cr::demo {

struct AnnealSettings {
  uint64_t chains = 8;
  uint64_t rounds = 200;
  uint64_t moves = 200000; /* tried per chain and round */
};

class Annealer {
 public:
  Annealer(Memory kind, const Instance& instance, const AnnealSettings& s, uint64_t seed)
      : instance_(instance), s_(s), seed_(seed), chains_(kind, s.chains) {
    for (size_t i = 0; i < s.chains; ++i) new (&chains_[i]) Chain(kind, instance);
  }
  Annealer(const Annealer&) = delete;
  Annealer& operator=(const Annealer&) = delete;
  ~Annealer() {
    for (size_t i = 0; i < s_.chains; ++i) chains_[i].~Chain();
  }

  /* Thread `number` of the team; session: nullptr for silence. */
  void run(Team& team, unsigned number, Session* session) {
    team.share(number, s_.chains, [this](size_t i) {
      chains_[i].random = Random::stream(seed_, i + 1);
      chains_[i].tour.start_greedily(i * instance_.cities() / s_.chains);
    });
    if (number == 0) set_temperatures();
    team.barrier();
    for (uint64_t round = 1; round <= s_.rounds; ++round) {
      team.share(number, s_.chains, [this](size_t i) { cool(chains_[i]); });
      if (number == 0) {
        temperature_ *= factor_;
        if (session) {
          printf("round %llu: temperature %.6g, best tour %lld\n", (unsigned long long)round,
                 temperature_, (long long)chains_[find(true)].tour.length());
          session->iteration_done(round);
        }
        if (round % kExchangeRounds == 0) chains_[find(false)].tour.copy(chains_[find(true)].tour);
      }
      team.barrier();
    }
    team.share(number, s_.chains, [this](size_t i) { chains_[i].tour.polish(); });
  }

  const Tour& best() const { return chains_[find(true)].tour; }

  bool same_as(const Annealer& other) const {
    for (size_t i = 0; i < s_.chains; ++i)
      if (chains_[i].random.state != other.chains_[i].random.state ||
          !same_bits(chains_[i].tour.order(), other.chains_[i].tour.order()))
        return false;
    return same_bits(temperature_, other.temperature_);
  }

 private:
  static constexpr uint64_t kExchangeRounds = 10;

  struct Chain {
    Chain(Memory kind, const Instance& instance) : tour(kind, instance), random{0} {}
    Tour tour;
    Random random;
  };

  /* The chain with the shortest, or the longest, tour; of equal ones the first. */
  size_t find(bool shortest) const {
    size_t found = 0;
    for (size_t i = 1; i < s_.chains; ++i) {
      int64_t length = chains_[i].tour.length(), known = chains_[found].tour.length();
      if (shortest ? length < known : length > known) found = i;
    }
    return found;
  }

  /* From one half to one hundredth of the mean edge. */
  void set_temperatures() {
    double mean = double(chains_[0].tour.length()) / double(instance_.cities());
    temperature_ = mean * 0.5;
    factor_ = exp(log(0.02) / double(s_.rounds));
  }

  void cool(Chain& chain) {
    uint32_t cities = uint32_t(instance_.cities()), choices = uint32_t(2 * instance_.neighbours());
    for (uint64_t move = 0; move < s_.moves; ++move) {
      uint32_t a = chain.random.below(cities);
      uint32_t choice = chain.random.below(choices);
      uint32_t b = instance_.neighbour(a, choice / 2);
      bool forward = choice % 2 == 0;
      int64_t gain = chain.tour.gain_of(a, b, forward);
      if (gain > 0 && chain.random.uniform() >= exp(-double(gain) / temperature_)) continue;
      chain.tour.exchange(a, b, forward, gain);
    }
  }

  const Instance& instance_;
  AnnealSettings s_;
  uint64_t seed_;
  Buffer<Chain> chains_;
  double temperature_ = 0;
  double factor_ = 1;
};

}  // namespace cr::demo

#endif /* DEMOS_TSP_ANNEAL_H */
