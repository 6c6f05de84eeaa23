// SPDX-License-Identifier: MIT
// interval_test.cc - the formulas against expected run times added up failure by failure, and the
// choice of the interval against programs that behave well and badly.
#include "agent/interval.h"

#include <criterion/criterion.h>
#include <math.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

#include "agent/overhead.h"

namespace {

using namespace cr::agent;

// Expected time until the first failure, if one comes within `length`: by Simpson's rule.
double time_lost(double length, double mtbf) {
  constexpr int kSteps = 2000;
  const double h = length / kSteps;
  double sum = 0;
  for (int i = 0; i <= kSteps; i++) {
    const double t = i * h, f = t * exp(-t / mtbf) / mtbf;
    sum += f * (i == 0 || i == kSteps ? 1 : i % 2 == 1 ? 4 : 2);
  }
  return sum * h / 3 / -expm1(-length / mtbf);
}

// Expected time to get through `length` without a failure, beginning anew after each.
double time_through(double length, double mtbf) {
  const double good = exp(-length / mtbf), lost = time_lost(length, mtbf);
  double expected = 0, chance = good, tries = 0;
  for (int failures = 0; failures < 100000 && chance > 1e-18; failures++) {
    expected += chance * (failures * lost + length);
    tries += chance;
    chance *= 1 - good;
  }
  return expected / tries;
}

// Expected time for a piece of `work` and its checkpoint. After a failure the restart, the work and
// what was done while the last checkpoint was being written have to be got through.
double time_of_cycle(double work, double cost, double latency, double restart, double mtbf) {
  const double good = exp(-(work + cost) / mtbf);
  return good * (work + cost) +
         (1 - good) * (time_lost(work + cost, mtbf) + time_through(restart + work + latency, mtbf));
}

// Where f is least, by trying: first coarsely over six decades, then finer.
double minimum(const std::function<double(double)>& f, double low, double high) {
  for (int round = 0; round < 6; round++) {
    constexpr int kPoints = 60;
    const double factor = pow(high / low, 1.0 / kPoints);
    double best = low, least = f(low);
    for (int i = 1; i <= kPoints; i++) {
      const double x = low * pow(factor, i), y = f(x);
      if (y < least) {
        least = y;
        best = x;
      }
    }
    low = best / factor;
    high = best * factor;
  }
  return low * sqrt(high / low);
}

bool close_to(double a, double b, double relative) { return fabs(a - b) <= relative * fabs(b); }

struct Case {
  double cost, latency, restart, mtbf;
};
constexpr Case kCases[] = {{1, 1, 10, 3600},     {1, 30, 10, 3600},   {0.01, 0.01, 1, 86400},
                           {0.05, 2, 5, 600},    {60, 60, 120, 7200}, {300, 900, 600, 86400},
                           {200, 200, 100, 1000}};

}  // namespace

Test(interval, overhead_ratio_is_the_sum_over_failures) {
  for (const Case& c : kCases) {
    for (const double work : {c.mtbf / 50, c.mtbf / 7, c.mtbf / 2}) {
      const double summed = time_of_cycle(work, c.cost, c.latency, c.restart, c.mtbf) / work - 1;
      const double formula = vaidya_overhead_ratio(work, c.cost, c.latency, c.restart, c.mtbf);
      cr_expect(close_to(formula, summed, 1e-6), "%g of %g: %.9g, summed %.9g", work, c.mtbf,
                formula, summed);
    }
  }
}

Test(interval, optimum_is_where_the_expected_time_is_least) {
  for (const Case& c : kCases) {
    const double best = minimum(
        [&](double work) {
          return time_of_cycle(work, c.cost, c.latency, c.restart, c.mtbf) / work;
        },
        c.mtbf * 1e-4, c.mtbf * 2);
    const double vaidya = vaidya_interval(c.cost, c.mtbf);
    cr_expect(close_to(vaidya, best, 0.005), "cost %g, mtbf %g: %g, tried %g", c.cost, c.mtbf,
              vaidya, best);
    // Daly: below 0.5 % as long as a checkpoint is much shorter than the time between failures.
    const double off = c.cost / c.mtbf < 0.1 ? 0.006 : 0.05;
    const double daly = daly_interval(c.cost, c.mtbf);
    cr_expect(close_to(daly, best, off), "cost %g, mtbf %g: Daly %g, tried %g", c.cost, c.mtbf,
              daly, best);
    const auto lost = [&](double work) {
      return time_of_cycle(work, c.cost, c.latency, c.restart, c.mtbf) / work;
    };
    cr_expect(lost(best) <= lost(best * 2) && lost(best) <= lost(best / 2));
  }
}

Test(interval, known_values) {
  cr_expect(close_to(young_interval(300, 86400), 7200, 1e-12));
  // 7200 * (1 + sqrt(300 / 172800) / 3 + 300 / 172800 / 9) - 300, by hand.
  cr_expect(close_to(daly_interval(300, 86400), 7001.3888889, 1e-9), "%.9g",
            daly_interval(300, 86400));
  cr_expect(daly_interval(2000, 1000) == 1000 && daly_interval(1e9, 1000) == 1000);
  cr_expect(young_interval(0, 100) == 0 && daly_interval(0, 100) == 0);
  cr_expect(vaidya_interval(0, 100) < 1e-6);
  cr_expect(vaidya_interval(1e6, 1) <= 1 && vaidya_interval(1e6, 1) > 0.999);
}

namespace {

// A program whose checkpoints cost a base and something for what changed since the last one.
struct Program {
  double base, per_second, most;  // of cost, seconds
  double latency_more = 0;
  double noise = 0;
  std::mt19937 random{7};

  double cost(double seconds) {
    const double c = base + std::min(most, per_second * seconds);
    return c * (1 + noise * (std::uniform_real_distribution<double>(-1, 1)(random)));
  }
};

struct Trace {
  std::vector<double> intervals;
  double overhead = 0;  // of the second half
};

Trace play(const IntervalPolicy& policy, Program program, int steps) {
  IntervalChooser chooser;
  Trace t;
  double interval = first_interval(policy), paid = 0, all = 0;
  for (int i = 0; i < steps; i++) {
    const double cost = program.cost(interval), latency = cost + program.latency_more;
    chooser.add({cost, latency, i == 0});
    if (i >= steps / 2) {
      paid += cost;
      all += interval + latency;
    }
    interval = chooser.next(policy, interval);
    t.intervals.push_back(interval);
  }
  t.overhead = paid / all;
  return t;
}

IntervalPolicy automatic() { return {.automatic = true}; }

}  // namespace

Test(interval, budget_is_kept_and_used) {
  for (const double budget : {0.001, 0.01, 0.05}) {
    IntervalPolicy p = automatic();
    p.overhead = budget;
    for (const Program& program :
         {Program{.base = 0.002, .per_second = 0, .most = 0},
          Program{.base = 0.002, .per_second = 0.0005, .most = 1},
          Program{.base = 0.01, .per_second = 0.1, .most = 0.2, .latency_more = 0.5},
          Program{.base = 0.05, .per_second = 0.01, .most = 0.4, .noise = 0.3}}) {
      const Trace t = play(p, program, 400);
      cr_expect(t.overhead <= budget * 1.001, "%g of %g", t.overhead, budget);
      cr_expect(t.overhead >= budget * 0.8, "%g of %g: too careful", t.overhead, budget);
    }
  }
  cr_expect(close_to(play(automatic(), {.base = 0.002, .per_second = 0, .most = 0}, 50).overhead,
                     0.009, 0.02),
            "1 %% is the default");
}

Test(interval, it_settles_without_swinging) {
  for (const double per_second : {0.0, 0.001, 0.005, 0.02}) {
    const Trace t = play(automatic(), {.base = 0.003, .per_second = per_second, .most = 0.5}, 400);
    const auto middle = t.intervals.begin() + 300;
    const auto [low, high] = std::minmax_element(middle, t.intervals.end());
    cr_expect(*high / *low < 1.02, "%g: between %g and %g", per_second, *low, *high);
    // Once it has left the beginning behind it does not turn round again and again.
    int turns = 0;
    for (size_t i = 12; i < 300; i++) {
      const double a = t.intervals[i - 1] - t.intervals[i - 2];
      const double b = t.intervals[i] - t.intervals[i - 1];
      if (a * b < 0 && std::min(fabs(a), fabs(b)) > 1e-6 * t.intervals[i]) turns++;
    }
    cr_expect(turns <= 2, "%g: it turned %d times", per_second, turns);
  }
}

Test(interval, noise_moves_it_little) {
  const Trace t =
      play(automatic(), {.base = 0.003, .per_second = 0, .most = 0, .noise = 0.5}, 2000);
  double worst = 1;
  for (size_t i = 20; i < t.intervals.size(); i++) {
    worst = std::max(worst, t.intervals[i] / t.intervals[i - 1]);
  }
  cr_expect(worst < 1.35, "one step by %g", worst);
}

Test(interval, one_outlier_moves_nothing) {
  IntervalChooser c;
  const IntervalPolicy p = automatic();
  for (int i = 0; i < 20; i++) c.add({0.01, 0.02, false});
  const double before = c.next(p, 1);
  c.add({5, 8, false});
  cr_expect(close_to(c.next(p, before), before, 1e-9));
  c.add({0.01, 0.02, false});
  cr_expect(close_to(c.next(p, before), before, 1e-9));
}

Test(interval, growth_is_prompt_and_shrinking_is_slow) {
  IntervalChooser c;
  const IntervalPolicy p = automatic();
  for (int i = 0; i < 3; i++) c.add({2, 2, false});
  cr_expect(close_to(c.next(p, 1), 2 / 0.009 - 2, 1e-9));
  IntervalChooser cheap;
  cheap.add({0.0001, 0.0001, false});
  cr_expect(cheap.next(p, 100) == 50, "half at most");
}

// The first copies everything and says little about the others.
Test(interval, first_checkpoint_does_not_make_it_wait_for_ever) {
  IntervalChooser c;
  const IntervalPolicy p = automatic();
  c.add({12, 12, true});
  const double learning = c.next(p, 1);
  cr_expect(close_to(learning, 120, 1e-9), "%g: a tenth to learn", learning);
  c.add({3, 4, false});  // held up by something else
  cr_expect(close_to(c.next(p, 1), 30, 1e-9), "%g: still learning", c.next(p, 1));
  for (int i = 0; i < 40; i++) c.add({0.05, 0.06, false});
  cr_expect(close_to(c.next(p, 1), 0.05 / 0.009 - 0.06, 1e-3));
  const double before = c.next(p, 1);
  c.add({12, 12, true});  // after a failure everything is copied again
  cr_expect(c.next(p, 1) == before);
}

Test(interval, time_between_failures) {
  IntervalPolicy p = automatic();
  p.mtbf = 6 * 3600;
  IntervalChooser c;
  for (int i = 0; i < 9; i++) c.add({4, 4, false});
  cr_expect(close_to(c.next(p, 1), daly_interval(4, p.mtbf), 1e-9), "as long as it is written");
  IntervalChooser overlapped;
  for (int i = 0; i < 9; i++) overlapped.add({4, 100, false});
  cr_expect(close_to(overlapped.next(p, 1), vaidya_interval(4, p.mtbf) - 96, 1e-9),
            "the work done meanwhile counts");
  p.overhead = 0.001;
  cr_expect(close_to(c.next(p, 1), kMostInterval, 1e-9), "a budget is kept as well");
  p.most = 1e6;
  cr_expect(close_to(c.next(p, 1), 4 / 0.0009 - 4, 1e-9), "%g", c.next(p, 1));
}

Test(interval, bounds) {
  IntervalChooser c;
  IntervalPolicy p = automatic();
  cr_expect(c.next(p, 17) == 17, "nothing is known yet");
  cr_expect(c.next(p, 1e9) == kMostInterval && c.next(p, 0) == kLeastInterval);
  for (int i = 0; i < 9; i++) c.add({1e-7, 1e-6, false});
  cr_expect(c.next(p, 0.01) == kLeastInterval);
  p.least = 2;
  p.most = 30;
  cr_expect(c.next(p, 0.01) == 2 && first_interval(p) == 2);
  for (int i = 0; i < 9; i++) c.add({1e3, 2e3, false});
  cr_expect(c.next(p, 0.01) == 30);
  c.add({NAN, NAN, false});
  c.add({NAN, NAN, false});
  c.add({NAN, NAN, false});
  const double after = c.next(p, 5);
  cr_expect(after >= 2 && after <= 30, "%g", after);
  p.least = 50;  // contradicts: the lower one counts
  cr_expect(c.next(p, 5) == 50);
  p.least = 0;
  p.most = 0.5;
  cr_expect(first_interval(p) == 0.5);
}
