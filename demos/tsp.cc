/* SPDX-License-Identifier: MIT */
/*
 * tsp.cc - demo: the travelling salesman problem, with CR-threads and memory from the nvheap.
 *
 * --method exact: branch and bound, for up to some hundred cities: the shortest tour and the proof
 * (tsp_exact.h). --method anneal: simulated annealing, for thousands of cities: a good tour
 * (tsp_anneal.h). Both give the same tour with any number of threads and after any number of
 * restores.
 *
 * Context: normal code (docs/contexts.md, N). Commands: demos/README.md.
 */
#include "tsp_exact.h"

namespace cr::demo {
namespace {

struct Settings {
  const char* method = "anneal";
  uint64_t cities = 0; /* 0: what suits the method */
  AnnealSettings anneal;
  ExactSettings exact;
  bool wants_exact() const { return strcmp(method, "exact") == 0; }
};

constexpr uint64_t kExactCities = 101;
constexpr uint64_t kAnnealCities = 4000;
constexpr uint64_t kMostExactCities = 1000;

/* One solution of one instance, by one team. */
class Salesman {
 public:
  Salesman(Memory kind, const Settings& s, uint64_t seed, unsigned threads)
      : s_(s),
        team_(kind, threads),
        instance_(kind, s.cities, seed),
        annealer_(kind, instance_, s.wants_exact() ? kFirstTour : s.anneal, seed),
        exact_(kind, instance_, s.exact, threads) {}

  void solve(Session* session) {
    auto body = [this, session](unsigned number) {
      instance_.generate(team_, number);
      annealer_.run(team_, number, s_.wants_exact() ? nullptr : session);
      if (s_.wants_exact()) exact_.run(team_, number, annealer_.best(), session);
    };
    team_.run(body);
  }

  void print_result() const {
    Checksum checksum;
    checksum.add(tour());
    if (s_.wants_exact())
      printf("result: tsp method=exact cities=%llu nodes=%llu shortest=%lld checksum=%016llx\n",
             (unsigned long long)s_.cities, (unsigned long long)exact_.nodes(),
             (long long)exact_.best(), checksum.value());
    else
      printf("result: tsp method=anneal cities=%llu length=%lld checksum=%016llx\n",
             (unsigned long long)s_.cities, (long long)annealer_.best().length(), checksum.value());
  }

  /* Does the tour visit every city once, and is it as long as it claims? */
  bool is_sound() const {
    Buffer<uint8_t> seen(Memory::kPlain, instance_.cities());
    for (size_t i = 0; i < tour().size(); ++i)
      if (tour()[i] >= seen.size() || seen[tour()[i]]++ != 0) return false;
    int64_t length = s_.wants_exact() ? exact_.best() : annealer_.best().length();
    return instance_.tour_length(tour().data()) == length;
  }

  bool same_as(const Salesman& other) const {
    return annealer_.same_as(other.annealer_) && same_bits(tour(), other.tour()) &&
           (!s_.wants_exact() || exact_.same_as(other.exact_));
  }

 private:
  static constexpr AnnealSettings kFirstTour = {8, 100, 2000};

  const Buffer<uint32_t>& tour() const {
    return s_.wants_exact() ? exact_.best_tour() : annealer_.best().order();
  }

  Settings s_;
  Team team_;
  Instance instance_;
  Annealer annealer_;
  ExactSolver exact_;
};

void read_options(int argc, char** argv, Settings& s, CommonOptions& common) {
  OptionTable table("Finds a short round trip through random cities.");
  using S = OptionSpec;
  table.add({"method", S::kText, &s.method, "NAME",
             "exact: branch and bound, the shortest; anneal: simulated annealing, a good one"});
  table.add({"cities", S::kWhole, &s.cities, "N",
             "number of cities; 0: 101 for exact, 4000 for anneal", 0, 30000});
  table.add(
      {"chains", S::kWhole, &s.anneal.chains, "N", "anneal: tours that cool side by side", 1, 256});
  table.add(
      {"rounds", S::kWhole, &s.anneal.rounds, "N", "anneal: steps of the temperature", 1, 1e9});
  table.add({"moves", S::kWhole, &s.anneal.moves, "N", "anneal: changes tried per chain and round",
             1, 1e12});
  table.add({"pool", S::kWhole, &s.exact.pool_mib, "MIB",
             "exact: memory of open nodes, in MiB; with more of them it searches depth first", 1,
             1e6});
  table.add_common(common);
  table.parse(argc, argv);
  bool known = s.wants_exact() || strcmp(s.method, "anneal") == 0;
  if (!known) note("--method %s: neither exact nor anneal", s.method);
  if (known && s.cities == 0) s.cities = s.wants_exact() ? kExactCities : kAnnealCities;
  bool fits = s.cities >= 5 && (!s.wants_exact() || s.cities <= kMostExactCities);
  if (known && !fits)
    note("--cities %llu: not from 5 to %llu", (unsigned long long)s.cities,
         (unsigned long long)(s.wants_exact() ? kMostExactCities : 30000));
  if (known && fits) return;
  note("try: %s --help", program_name);
  exit(kExitMisuse);
}

int main_tsp(int argc, char** argv) {
  begin("tsp");
  Settings s;
  CommonOptions common;
  read_options(argc, argv, s, common);

  Session session;
  session.start(common);
  Salesman salesman(Memory::kNvheap, s, common.seed, unsigned(common.threads));
  salesman.solve(&session);
  salesman.print_result();
  if (!salesman.is_sound()) {
    note("the tour is not a round trip through all cities, or not as long as it claims");
    return kExitFailure;
  }
  if (!common.verify) return finish(false, true);
  Salesman reference(Memory::kPlain, s, common.seed, 1);
  reference.solve(nullptr);
  return finish(true, salesman.same_as(reference));
}

}  // namespace
}  // namespace cr::demo

int main(int argc, char** argv) { return cr::demo::main_tsp(argc, argv); }
