/* SPDX-License-Identifier: MIT */
/*
 * gradient_descent.cc - demo: logistic regression by batch gradient descent, with CR-threads and
 * memory from the nvheap.
 *
 * Samples are cut into a fixed number of parts. Each part's gradient is made by one thread in the
 * order of its samples, and parts are added up in their order, so that every bit of the weights is
 * the same with any number of threads and after any number of restores.
 *
 * Context: normal code (docs/contexts.md, N). Commands: demos/README.md.
 */
#include "demo_common.h"

namespace cr::demo {
namespace {

constexpr size_t kLanes = 8; /* products computed side by side, for the compiler's vectors */

struct Settings {
  uint64_t samples = 1 << 19;
  uint64_t features = 32;
  uint64_t iterations = 1000;
  uint64_t report_every = 10;
  double rate = 0.5;
};

/* Everything the computation knows. */
class Regression {
 public:
  Regression(Memory kind, const Settings& s, uint64_t seed)
      : s_(s),
        seed_(seed),
        padded_((s.features + kLanes - 1) / kLanes * kLanes),
        inputs_(kind, s.samples * padded_),
        labels_(kind, s.samples),
        chances_(kind, s.samples),
        weights_(kind, padded_),
        gradients_(kind, kParts * padded_),
        losses_(kind, kParts),
        hits_(kind, kParts) {}

  /* Thread `number` of the team; session: nullptr for the silent reference. */
  void run(Team& team, unsigned number, Session* session) {
    team.share(number, kParts, [this](size_t part) { generate(part); });
    for (uint64_t iteration = 1; iteration <= s_.iterations; ++iteration) {
      team.share(number, kParts, [this](size_t part) { differentiate(part); });
      if (number == 0) {
        step();
        if (session) {
          if (iteration % s_.report_every == 0)
            printf("iteration %llu: loss %.17g, %llu of %llu right\n",
                   (unsigned long long)iteration, loss_, (unsigned long long)right_,
                   (unsigned long long)s_.samples);
          session->iteration_done(iteration);
        }
      }
      team.barrier();
    }
  }

  void print_result() const {
    Checksum checksum;
    checksum.add(weights_);
    checksum.add(chances_);
    checksum.add(&loss_, sizeof loss_);
    printf(
        "result: gradient_descent samples=%llu features=%llu iterations=%llu right=%llu "
        "loss=%.17g checksum=%016llx\n",
        (unsigned long long)s_.samples, (unsigned long long)s_.features,
        (unsigned long long)s_.iterations, (unsigned long long)right_, loss_, checksum.value());
  }

  bool same_as(const Regression& other) const {
    return right_ == other.right_ && same_bits(loss_, other.loss_) &&
           same_bits(inputs_, other.inputs_) && same_bits(labels_, other.labels_) &&
           same_bits(weights_, other.weights_) && same_bits(chances_, other.chances_);
  }

 private:
  /* Samples labelled by hidden weights, with noise, so that no weights are right for all. */
  void generate(size_t part) {
    Range range = part_of(s_.samples, part);
    Random random = Random::stream(seed_, part);
    for (size_t i = range.begin; i < range.end; ++i) {
      Random hidden = Random::stream(~seed_, 0);
      float* input = inputs_.data() + i * padded_;
      double sum = 0;
      for (size_t f = 0; f < s_.features; ++f) {
        input[f] = f == 0 ? 1.0f : float(random.normal());
        sum += double(input[f]) * hidden.normal();
      }
      labels_[i] = sum + 1.5 * random.normal() > 0 ? 1 : 0;
    }
  }

  double score(const float* input) const {
    const double* weights = weights_.data();
    double sums[kLanes] = {};
    for (size_t base = 0; base < padded_; base += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane)
        sums[lane] += weights[base + lane] * double(input[base + lane]);
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
           ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  }

  void differentiate(size_t part) {
    Range range = part_of(s_.samples, part);
    double* gradient = gradients_.data() + part * padded_;
    memset(gradient, 0, padded_ * sizeof *gradient);
    double loss = 0;
    uint64_t hits = 0;
    for (size_t i = range.begin; i < range.end; ++i) {
      const float* input = inputs_.data() + i * padded_;
      double z = score(input);
      double small = exp(-fabs(z));
      double chance = z >= 0 ? 1.0 / (1.0 + small) : small / (1.0 + small);
      double label = double(labels_[i]);
      loss += (z >= 0 ? z : 0.0) - z * label + log1p(small);
      hits += (z >= 0) == (labels_[i] != 0);
      chances_[i] = chance;
      double error = chance - label;
      for (size_t base = 0; base < padded_; base += kLanes)
        for (size_t lane = 0; lane < kLanes; ++lane)
          gradient[base + lane] += error * double(input[base + lane]);
    }
    losses_[part] = loss;
    hits_[part] = hits;
  }

  /* Adds up the parts, always in the same order, and goes one step downhill. */
  void step() {
    double scale = 1.0 / double(s_.samples);
    double loss = 0;
    right_ = 0;
    for (size_t part = 0; part < kParts; ++part) {
      loss += losses_[part];
      right_ += hits_[part];
    }
    loss_ = loss * scale;
    for (size_t f = 0; f < s_.features; ++f) {
      double sum = 0;
      for (size_t part = 0; part < kParts; ++part) sum += gradients_[part * padded_ + f];
      weights_[f] -= s_.rate * scale * sum;
    }
  }

  Settings s_;
  uint64_t seed_;
  size_t padded_;
  Buffer<float> inputs_;     /* [sample][padded feature]; feature 0 is always 1 */
  Buffer<uint8_t> labels_;   /* 0 or 1 */
  Buffer<double> chances_;   /* of a label 1, by the weights before the last step */
  Buffer<double> weights_;   /* [padded feature] */
  Buffer<double> gradients_; /* [part][padded feature] */
  Buffer<double> losses_;    /* [part] */
  Buffer<uint64_t> hits_;    /* [part] */
  double loss_ = 0;
  uint64_t right_ = 0;
};

void compute(Regression& regression, Memory kind, unsigned threads, Session* session) {
  Team team(kind, threads);
  auto body = [&](unsigned number) { regression.run(team, number, session); };
  team.run(body);
}

int main_gradient_descent(int argc, char** argv) {
  begin("gradient_descent");
  Settings s;
  CommonOptions common;
  OptionTable table("Fits a logistic regression to random samples by batch gradient descent.");
  using S = OptionSpec;
  table.add({"samples", S::kWhole, &s.samples, "N", "number of samples", 1024, 1e9});
  table.add(
      {"features", S::kWhole, &s.features, "D", "features of a sample, 4 bytes each", 1, 4096});
  table.add({"iterations", S::kWhole, &s.iterations, "N", "steps downhill", 1, 1e9});
  table.add(
      {"report-every", S::kWhole, &s.report_every, "N", "iterations per line of progress", 1, 1e9});
  table.add({"rate", S::kReal, &s.rate, "R", "length of a step", 1e-9, 1e3});
  table.add_common(common);
  table.parse(argc, argv);

  Session session;
  session.start(common);
  Regression regression(Memory::kNvheap, s, common.seed);
  compute(regression, Memory::kNvheap, unsigned(common.threads), &session);
  regression.print_result();
  if (!common.verify) return finish(false, true);
  Regression reference(Memory::kPlain, s, common.seed);
  compute(reference, Memory::kPlain, 1, nullptr);
  return finish(true, regression.same_as(reference));
}

}  // namespace
}  // namespace cr::demo

int main(int argc, char** argv) { return cr::demo::main_gradient_descent(argc, argv); }
