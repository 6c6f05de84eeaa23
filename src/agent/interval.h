// SPDX-License-Identifier: MIT
// interval.h - how long to wait between checkpoints, from what they cost.
// Invariant: pure arithmetic on seconds; nothing here reads a clock. What is chosen lies within the
// policy's bounds, whatever was measured.
// Context: N. Doc: docs/ARCHITECTURE.md, "The automatic interval".
#pragma once

#include <stdint.h>

namespace cr::agent {

inline constexpr double kDefaultOverhead = 0.01;
inline constexpr double kLeastInterval = 0.01, kMostInterval = 3600;  // bounds if none are given

// What the user wants. Zero means not given.
struct IntervalPolicy {
  bool automatic = false;  // false: the interval is fixed, and nothing else here counts
  double overhead = 0;     // share of its time that checkpoints may cost the program
  double mtbf = 0;         // mean time between failures, seconds
  double least = 0, most = 0;

  // Without a mean time between failures there is nothing to weigh the cost against but a budget.
  double budget() const { return overhead > 0 ? overhead : mtbf > 0 ? 0 : kDefaultOverhead; }
};

// The useful work, in seconds, to do between two checkpoints so that the expected time to finish is
// least. cost: what a checkpoint adds to the run; mtbf: mean time between failures, exponentially
// distributed. All are 0 < cost, mtbf.

// J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of
// the ACM 17(9), 1974.
double young_interval(double cost, double mtbf);

// J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps",
// Future Generation Computer Systems 22(3), 2006.
double daly_interval(double cost, double mtbf);

// N. H. Vaidya, "Impact of checkpoint latency on overhead ratio of a checkpointing scheme", IEEE
// Transactions on Computers 46(8), 1997: for checkpoints that are written while the program runs
// on, so that they become usable (latency) later than the program has paid for them (cost).
double vaidya_interval(double cost, double mtbf);
// There: expected share of time lost if `work` seconds lie between checkpoints.
double vaidya_overhead_ratio(double work, double cost, double latency, double restart, double mtbf);

// Follows what checkpoints cost and says when the next one is due.
class IntervalChooser {
 public:
  struct Sample {
    double cost = 0;     // cost_of() an attempt
    double latency = 0;  // from its beginning until it was whole
    bool first = false;  // all pages were copied; later checkpoints copy only what changed
  };
  void add(const Sample& sample);
  // Seconds from the end of the last checkpoint to the beginning of the next. current: what it was.
  double next(const IntervalPolicy& policy, double current) const;

 private:
  static constexpr int kRecent = 3;
  Sample recent_[kRecent];
  int count_ = 0;                  // of samples that tell what checkpoints cost, up to kRecent
  double cost_ = 0, latency_ = 0;  // smoothed
  double first_cost_ = 0;          // known is only what the first one cost
};

// Before anything has been measured.
double first_interval(const IntervalPolicy& policy);

}  // namespace cr::agent
