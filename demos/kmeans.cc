/* SPDX-License-Identifier: MIT */
/*
 * kmeans.cc - demo: k-means clustering by Lloyd's algorithm (S. Lloyd, "Least squares quantization
 * in PCM", 1982), with CR-threads and memory from the nvheap.
 *
 * Points are cut into a fixed number of parts. Each part's sums are made by one thread in the order
 * of its points, and parts are added up in their order, so that every bit of the result is the same
 * with any number of threads and after any number of restores.
 *
 * Context: normal code (docs/contexts.md, N). Commands: demos/README.md.
 */
#include "demo_common.h"

namespace cr::demo {
namespace {

constexpr size_t kLanes = 16; /* distances computed side by side, for the compiler's vectors */

struct Settings {
  uint64_t points = 1 << 20;
  uint64_t dims = 16;
  uint64_t clusters = 64;
  uint64_t iterations = 100;
};

/* Everything the computation knows. */
class KMeans {
 public:
  KMeans(Memory kind, const Settings& s, uint64_t seed)
      : s_(s),
        seed_(seed),
        padded_((s.clusters + kLanes - 1) / kLanes * kLanes),
        points_(kind, s.points * s.dims),
        centers_(kind, padded_ * s.dims),
        owner_(kind, s.points),
        distance_(kind, s.points),
        sums_(kind, kParts * s.clusters * s.dims),
        counts_(kind, kParts * s.clusters),
        inertias_(kind, kParts),
        moves_(kind, kParts) {}

  /* Thread `number` of the team; session: nullptr for the silent reference. */
  void run(Team& team, unsigned number, Session* session) {
    team.share(number, kParts, [this](size_t part) { generate(part); });
    if (number == 0) choose_first_centers();
    team.barrier();
    for (uint64_t iteration = 1; iteration <= s_.iterations; ++iteration) {
      team.share(number, kParts, [this](size_t part) { assign(part); });
      if (number == 0) {
        move_centers();
        done_ = iteration;
        if (session) {
          printf("iteration %llu: %llu points moved, inertia %.17g\n",
                 (unsigned long long)iteration, (unsigned long long)moved_, inertia_);
          session->iteration_done(iteration);
        }
      }
      team.barrier();
      if (moved_ == 0) break;
    }
  }

  void print_result() const {
    Checksum checksum;
    checksum.add(centers_);
    checksum.add(owner_);
    checksum.add(&inertia_, sizeof inertia_);
    printf(
        "result: kmeans points=%llu dims=%llu clusters=%llu iterations=%llu inertia=%.17g "
        "checksum=%016llx\n",
        (unsigned long long)s_.points, (unsigned long long)s_.dims, (unsigned long long)s_.clusters,
        (unsigned long long)done_, inertia_, checksum.value());
  }

  bool same_as(const KMeans& other) const {
    return done_ == other.done_ && moved_ == other.moved_ && same_bits(inertia_, other.inertia_) &&
           same_bits(points_, other.points_) && same_bits(centers_, other.centers_) &&
           same_bits(owner_, other.owner_) && same_bits(distance_, other.distance_);
  }

 private:
  /* Overlapping clouds, more of them than clusters, so that it takes long to settle. */
  void generate(size_t part) {
    constexpr uint32_t kClouds = 96;
    Range range = part_of(s_.points, part);
    Random random = Random::stream(seed_, part);
    for (size_t i = range.begin; i < range.end; ++i) {
      Random cloud = Random::stream(~seed_, random.below(kClouds));
      for (size_t d = 0; d < s_.dims; ++d)
        points_[i * s_.dims + d] = float(0.75 * cloud.normal() + random.normal());
    }
    for (size_t i = range.begin; i < range.end; ++i) owner_[i] = UINT16_MAX;
  }

  void choose_first_centers() {
    Random random = Random::stream(seed_, kParts);
    for (size_t c = 0; c < s_.clusters; ++c) {
      size_t first = c * s_.points / s_.clusters;
      size_t span = (c + 1) * s_.points / s_.clusters - first;
      size_t point = first + random.below(uint32_t(span));
      for (size_t d = 0; d < s_.dims; ++d) centers_[d * padded_ + c] = points_[point * s_.dims + d];
    }
  }

  /* The nearest center and the square of its distance; of equal ones the first. */
  size_t nearest(const float* point, float* ret_distance) const {
    size_t best = 0;
    float best_distance = INFINITY;
    for (size_t base = 0; base < padded_; base += kLanes) {
      float sums[kLanes] = {};
      for (size_t d = 0; d < s_.dims; ++d) {
        const float* row = centers_.data() + d * padded_ + base;
        float x = point[d];
        for (size_t lane = 0; lane < kLanes; ++lane) {
          float gap = x - row[lane];
          sums[lane] += gap * gap;
        }
      }
      for (size_t lane = 0; lane < kLanes && base + lane < s_.clusters; ++lane) {
        if (sums[lane] < best_distance) {
          best_distance = sums[lane];
          best = base + lane;
        }
      }
    }
    *ret_distance = best_distance;
    return best;
  }

  void assign(size_t part) {
    Range range = part_of(s_.points, part);
    double* sums = sums_.data() + part * s_.clusters * s_.dims;
    uint64_t* counts = counts_.data() + part * s_.clusters;
    memset(sums, 0, s_.clusters * s_.dims * sizeof *sums);
    memset(counts, 0, s_.clusters * sizeof *counts);
    double inertia = 0;
    uint64_t moved = 0;
    for (size_t i = range.begin; i < range.end; ++i) {
      const float* point = points_.data() + i * s_.dims;
      float distance;
      size_t center = nearest(point, &distance);
      moved += owner_[i] != center;
      owner_[i] = uint16_t(center);
      distance_[i] = distance;
      inertia += double(distance);
      ++counts[center];
      double* sum = sums + center * s_.dims;
      for (size_t d = 0; d < s_.dims; ++d) sum[d] += double(point[d]);
    }
    inertias_[part] = inertia;
    moves_[part] = moved;
  }

  /* Adds up the parts, always in the same order. A center without points stays where it is. */
  void move_centers() {
    inertia_ = 0;
    moved_ = 0;
    for (size_t part = 0; part < kParts; ++part) {
      inertia_ += inertias_[part];
      moved_ += moves_[part];
    }
    for (size_t c = 0; c < s_.clusters; ++c) {
      uint64_t count = 0;
      for (size_t part = 0; part < kParts; ++part) count += counts_[part * s_.clusters + c];
      if (count == 0) continue;
      for (size_t d = 0; d < s_.dims; ++d) {
        double sum = 0;
        for (size_t part = 0; part < kParts; ++part)
          sum += sums_[(part * s_.clusters + c) * s_.dims + d];
        centers_[d * padded_ + c] = float(sum / double(count));
      }
    }
  }

  Settings s_;
  uint64_t seed_;
  size_t padded_;
  Buffer<float> points_;    /* [point][dim] */
  Buffer<float> centers_;   /* [dim][padded cluster] */
  Buffer<uint16_t> owner_;  /* each point's center */
  Buffer<float> distance_;  /* squared, to that center */
  Buffer<double> sums_;     /* [part][cluster][dim] */
  Buffer<uint64_t> counts_; /* [part][cluster] */
  Buffer<double> inertias_; /* [part] */
  Buffer<uint64_t> moves_;  /* [part] */
  double inertia_ = 0;
  uint64_t moved_ = 0;
  uint64_t done_ = 0;
};

void compute(KMeans& kmeans, Memory kind, unsigned threads, Session* session) {
  Team team(kind, threads);
  auto body = [&](unsigned number) { kmeans.run(team, number, session); };
  team.run(body);
}

int main_kmeans(int argc, char** argv) {
  begin("kmeans");
  Settings s;
  CommonOptions common;
  OptionTable table("Groups random points into clusters by Lloyd's algorithm.");
  using S = OptionSpec;
  table.add({"points", S::kWhole, &s.points, "N", "number of points", 1024, 1e9});
  table.add({"dims", S::kWhole, &s.dims, "D", "coordinates of a point, 4 bytes each", 1, 1024});
  table.add({"clusters", S::kWhole, &s.clusters, "K", "number of clusters", 1, 1024});
  table.add({"iterations", S::kWhole, &s.iterations, "N", "end after so many iterations", 1, 1e9});
  table.add_common(common);
  table.parse(argc, argv);

  Session session;
  session.start(common);
  KMeans kmeans(Memory::kNvheap, s, common.seed);
  compute(kmeans, Memory::kNvheap, unsigned(common.threads), &session);
  kmeans.print_result();
  if (!common.verify) return finish(false, true);
  KMeans reference(Memory::kPlain, s, common.seed);
  compute(reference, Memory::kPlain, 1, nullptr);
  return finish(true, kmeans.same_as(reference));
}

}  // namespace
}  // namespace cr::demo

int main(int argc, char** argv) { return cr::demo::main_kmeans(argc, argv); }
