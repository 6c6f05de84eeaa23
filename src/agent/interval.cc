// SPDX-License-Identifier: MIT
// interval.cc - see interval.h. Invariant: as there. Context: N.
#include "agent/interval.h"

#include <math.h>

#include <algorithm>

namespace cr::agent {
namespace {

constexpr double kFirstSeconds = 1;  // until the first cost is known
constexpr double kAim = 0.9;         // of the budget, so that it is kept in spite of noise
constexpr double kNew = 0.3;         // weight of the newest cost in the mean
constexpr double kShrink = 0.5;      // an interval falls to no less than this in a step
// Until three checkpoints of changes alone are measured, at most this share is spent to learn.
constexpr double kLearning = 0.1;

double median(double a, double b, double c) {
  return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

double bounded(const IntervalPolicy& p, double seconds) {
  const double least = p.least > 0 ? p.least : kLeastInterval;
  const double most = p.most > 0 ? p.most : kMostInterval;
  if (!(seconds > least)) return least;  // also what is no number
  return std::min(seconds, std::max(least, most));
}

// From the beginning of one checkpoint to that of the next.
double period_for(const IntervalPolicy& p, double cost, double latency) {
  double period = 0;
  if (p.budget() > 0) period = cost / (p.budget() * kAim);
  if (p.mtbf > 0) {
    const double work =
        latency > cost ? vaidya_interval(cost, p.mtbf) : daly_interval(cost, p.mtbf);
    period = std::max(period, work + cost);
  }
  return period;
}

}  // namespace

double young_interval(double cost, double mtbf) { return sqrt(2 * cost * mtbf); }

double daly_interval(double cost, double mtbf) {
  if (cost >= 2 * mtbf) return mtbf;
  const double ratio = cost / (2 * mtbf);
  return sqrt(2 * cost * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9) - cost;
}

// With x = work / mtbf and c = cost / mtbf the optimum solves exp(x + c) * (1 - x) = 1; the latency
// does not come into it. The logarithm of the left side falls from c at 0 without bound.
double vaidya_interval(double cost, double mtbf) {
  const double c = cost / mtbf;
  double low = 0, high = 1;
  for (int i = 0; i < 200 && low < high; i++) {
    const double x = (low + high) / 2;
    if (x <= low || x >= high) break;
    (x + c + log1p(-x) > 0 ? low : high) = x;
  }
  return (low + high) / 2 * mtbf;
}

double vaidya_overhead_ratio(double work, double cost, double latency, double restart,
                             double mtbf) {
  return mtbf * exp((latency - cost + restart) / mtbf) * expm1((work + cost) / mtbf) / work - 1;
}

void IntervalChooser::add(const Sample& s) {
  if (s.first) {
    if (count_ == 0) first_cost_ = s.cost;
    return;
  }
  for (int i = kRecent - 1; i > 0; i--) recent_[i] = recent_[i - 1];
  recent_[0] = s;
  count_ = std::min(count_ + 1, kRecent);
  if (count_ == 1) {
    cost_ = s.cost;
    latency_ = s.latency;
    return;
  }
  // One that is far off, because the machine was busy with something else, moves nothing.
  const bool full = count_ == kRecent;
  const double cost = full ? median(recent_[0].cost, recent_[1].cost, recent_[2].cost)
                           : (recent_[0].cost + recent_[1].cost) / 2;
  const double latency = full ? median(recent_[0].latency, recent_[1].latency, recent_[2].latency)
                              : (recent_[0].latency + recent_[1].latency) / 2;
  cost_ += kNew * (cost - cost_);
  latency_ += kNew * (latency - latency_);
}

double IntervalChooser::next(const IntervalPolicy& policy, double current) const {
  if (count_ == 0 && first_cost_ == 0) return bounded(policy, current);
  const double cost = count_ == 0 ? first_cost_ : cost_;
  double wanted = period_for(policy, cost, latency_) - latency_;
  // One long pause at the beginning must not put off the next checkpoint, which would show that it
  // was an exception, for an hour.
  if (count_ < kRecent) wanted = std::min(wanted, std::max(current, cost / kLearning));
  return bounded(policy, std::max(wanted, current * kShrink));
}

double first_interval(const IntervalPolicy& policy) { return bounded(policy, kFirstSeconds); }

}  // namespace cr::agent
