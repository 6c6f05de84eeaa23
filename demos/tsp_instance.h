/* SPDX-License-Identifier: MIT */
/*
 * tsp_instance.h - the travelling salesman's cities, and tours through them.
 *
 * Invariant: distances are whole numbers (rounded Euclidean, as TSPLIB's EUC_2D), so the length of
 * a tour is exact and does not depend on the order in which it is added up.
 *
 * Context: normal code (docs/contexts.md, N). Used by tsp_anneal.h, tsp_exact.h and tsp.cc.
 */
#ifndef DEMOS_TSP_INSTANCE_H
#define DEMOS_TSP_INSTANCE_H

#include <algorithm>

#include "demo_common.h"

namespace cr::demo {

inline constexpr size_t kNeighbours = 10;
inline constexpr double kMapSide = 1e6;

class Instance {
 public:
  Instance(Memory kind, size_t cities, uint64_t seed)
      : cities_(cities),
        seed_(seed),
        x_(kind, cities),
        y_(kind, cities),
        distances_(kind, cities * cities),
        near_(kind, cities * std::min(kNeighbours, cities - 1)) {}

  size_t cities() const { return cities_; }
  size_t neighbours() const { return std::min(kNeighbours, cities_ - 1); }
  int64_t distance(size_t a, size_t b) const { return distances_[a * cities_ + b]; }
  /* The i-th nearest city. */
  uint32_t neighbour(size_t city, size_t i) const { return near_[city * neighbours() + i]; }

  /* By all threads of the team together. */
  void generate(Team& team, unsigned number) {
    if (number == 0) place_cities();
    team.barrier();
    team.share(number, kParts, [this](size_t part) {
      Range range = part_of(cities_, part);
      for (size_t city = range.begin; city < range.end; ++city) measure(city);
    });
    team.share(number, kParts, [this](size_t part) {
      Range range = part_of(cities_, part);
      for (size_t city = range.begin; city < range.end; ++city) find_neighbours(city);
    });
  }

  int64_t tour_length(const uint32_t* tour) const {
    int64_t length = distance(tour[cities_ - 1], tour[0]);
    for (size_t i = 1; i < cities_; ++i) length += distance(tour[i - 1], tour[i]);
    return length;
  }

 private:
  void place_cities() {
    Random random = Random::stream(seed_, 0);
    for (size_t i = 0; i < cities_; ++i) {
      x_[i] = random.uniform() * kMapSide;
      y_[i] = random.uniform() * kMapSide;
    }
  }

  void measure(size_t city) {
    for (size_t other = 0; other < cities_; ++other) {
      double dx = x_[city] - x_[other];
      double dy = y_[city] - y_[other];
      distances_[city * cities_ + other] = int32_t(sqrt(dx * dx + dy * dy) + 0.5);
    }
  }

  /* By insertion: the list is short. Of equal distances the lower number is nearer. */
  void find_neighbours(size_t city) {
    uint32_t* list = near_.data() + city * neighbours();
    size_t known = 0;
    for (uint32_t other = 0; other < cities_; ++other) {
      if (other == city) continue;
      int64_t gap = distance(city, other);
      if (known == neighbours() && gap >= distance(city, list[known - 1])) continue;
      size_t place = known < neighbours() ? known++ : known - 1;
      for (; place > 0 && distance(city, list[place - 1]) > gap; --place)
        list[place] = list[place - 1];
      list[place] = other;
    }
  }

  size_t cities_;
  uint64_t seed_;
  Buffer<double> x_, y_;
  Buffer<int32_t> distances_; /* [city][city] */
  Buffer<uint32_t> near_;     /* [city][neighbour] */
};

/* A tour that can be changed by exchanging two of its edges. */
class Tour {
 public:
  Tour(Memory kind, const Instance& instance)
      : instance_(&instance), order_(kind, instance.cities()), place_(kind, instance.cities()) {}

  int64_t length() const { return length_; }
  const Buffer<uint32_t>& order() const { return order_; }

  /* From `first` always to the nearest city not yet visited. */
  void start_greedily(size_t first) {
    size_t cities = order_.size();
    for (size_t i = 0; i < cities; ++i) order_[i] = uint32_t(i);
    std::swap(order_[0], order_[first]);
    for (size_t i = 1; i < cities; ++i) {
      size_t best = i;
      for (size_t j = i + 1; j < cities; ++j)
        if (instance_->distance(order_[i - 1], order_[j]) <
            instance_->distance(order_[i - 1], order_[best]))
          best = j;
      std::swap(order_[i], order_[best]);
    }
    for (size_t i = 0; i < cities; ++i) place_[order_[i]] = uint32_t(i);
    length_ = instance_->tour_length(order_.data());
  }

  void copy(const Tour& other) {
    memcpy(order_.data(), other.order_.data(), order_.size_bytes());
    memcpy(place_.data(), other.place_.data(), place_.size_bytes());
    length_ = other.length_;
  }

  /* What the length changes by when a and b become neighbours, as well as the cities behind them
   * (forward) or before them. */
  int64_t gain_of(uint32_t a, uint32_t b, bool forward) const {
    uint32_t next_a = beside(a, forward), next_b = beside(b, forward);
    return instance_->distance(a, b) + instance_->distance(next_a, next_b) -
           instance_->distance(a, next_a) - instance_->distance(b, next_b);
  }

  /* Makes that exchange. gain: as gain_of() gave it. */
  void exchange(uint32_t a, uint32_t b, bool forward, int64_t gain) {
    if (forward)
      reverse(beside(a, true), b);
    else
      reverse(a, beside(b, false));
    length_ += gain;
  }

  /* Exchanges edges while that makes the tour shorter. */
  void polish() {
    for (bool better = true; better;) {
      better = false;
      for (uint32_t a = 0; a < order_.size(); ++a)
        for (size_t i = 0; i < 2 * instance_->neighbours(); ++i) {
          uint32_t b = instance_->neighbour(a, i / 2);
          bool forward = i % 2 == 0;
          int64_t gain = gain_of(a, b, forward);
          if (gain >= 0) continue;
          exchange(a, b, forward, gain);
          better = true;
        }
    }
  }

 private:
  uint32_t beside(uint32_t city, bool forward) const {
    uint32_t place = place_[city], last = uint32_t(order_.size()) - 1;
    if (forward) return order_[place == last ? 0 : place + 1];
    return order_[place == 0 ? last : place - 1];
  }

  /* Turns round the way from city `from` forward to city `to`, or, where that is shorter, the rest
   * of the tour: the two give the same round trip. */
  void reverse(uint32_t from, uint32_t to) {
    uint32_t cities = uint32_t(order_.size());
    uint32_t i = place_[from], j = place_[to];
    uint32_t count = (j >= i ? j - i : j + cities - i) + 1;
    if (2 * count > cities) {
      uint32_t before = i == 0 ? cities - 1 : i - 1;
      i = j + 1 == cities ? 0 : j + 1;
      j = before;
      count = cities - count;
    }
    for (uint32_t steps = count / 2; steps > 0; --steps) {
      uint32_t a = order_[i], b = order_[j];
      order_[i] = b;
      place_[b] = i;
      order_[j] = a;
      place_[a] = j;
      i = i + 1 == cities ? 0 : i + 1;
      j = j == 0 ? cities - 1 : j - 1;
    }
  }

  const Instance* instance_;
  int64_t length_ = 0;
  Buffer<uint32_t> order_; /* the cities in the order of the tour */
  Buffer<uint32_t> place_; /* of each city in it */
};

}  // namespace cr::demo

#endif /* DEMOS_TSP_INSTANCE_H */
