// SPDX-License-Identifier: MIT
// fuzz_main.cc - runs a fuzz target (LLVMFuzzerTestOneInput) built by plain g++: it mutates inputs,
// guided by coverage.
// Invariant: the same seed and the same corpus give the same sequence of inputs. An input that
// fails (sanitizer report, signal, or more than 10 s) is written to a file, and the command that
// repeats it is printed.
// Context: N; a program of its own.
//
//   target [-seconds=N] [-runs=N] [-seed=N] [-max_len=N] [file or folder ...]
// Files are run once each, as they are. Folders are the first inputs; new ones stay in memory.
#include <dirent.h>
#include <errno.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

// One counter per hashed pair of basic blocks; the compiler calls the hook below in each block.
constexpr size_t kEdges = 1 << 16;
uint8_t g_hits[kEdges];
uint8_t g_seen[kEdges];  // which counts (as power-of-two classes) any input has reached
uintptr_t g_last_block;

const Input* g_current;
const char* g_program;

uint64_t g_random;
uint64_t next_random() {
  g_random += 0x9e3779b97f4a7c15u;  // splitmix64
  uint64_t z = g_random;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
uint64_t below(uint64_t n) { return n == 0 ? 0 : next_random() % n; }

// Called on the way down, from a signal handler or the sanitizer: only async-signal-safe calls.
void save_failure() {
  const Input* in = g_current;
  g_current = nullptr;
  if (in == nullptr) return;
  uint64_t hash = 1469598103934665603u;  // FNV-1a
  for (uint8_t b : *in) hash = (hash ^ b) * 1099511628211u;
  const char* slash = strrchr(g_program, '/');
  char name[256], line[600];
  snprintf(name, sizeof name, "fuzz-failure-%.200s-%016llx", slash ? slash + 1 : g_program,
           static_cast<unsigned long long>(hash));
  FILE* f = fopen(name, "wb");
  if (f != nullptr) {
    fwrite(in->data(), 1, in->size(), f);
    fclose(f);
  }
  const int n =
      snprintf(line, sizeof line, "\nfuzz: FAILED; to repeat it: %s %s\n", g_program, name);
  if (write(2, line, static_cast<size_t>(n)) < 0) _exit(1);
}

void on_signal(int sig) {
  if (sig == SIGALRM) {
    static const char kSlow[] = "\nfuzz: one input took more than 10 s\n";
    if (write(2, kSlow, sizeof kSlow - 1) < 0) _exit(1);
  }
  save_failure();
  _exit(1);
}

void run(const Input& in) {
  memset(g_hits, 0, sizeof g_hits);
  g_last_block = 0;
  // An exact-size copy, so that reading one byte too far is seen.
  Input copy(in);
  copy.shrink_to_fit();
  g_current = &in;
  alarm(10);
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  alarm(0);
  g_current = nullptr;
}

uint8_t count_class(uint8_t hits) {
  if (hits == 0) return 0;
  return static_cast<uint8_t>(1u << std::min(7, 31 - __builtin_clz(hits)));
}

// Did the last run reach something that no run had reached?
bool found_new() {
  bool found = false;
  for (size_t i = 0; i < kEdges; i++) {
    const uint8_t c = count_class(g_hits[i]);
    if ((c & ~g_seen[i]) != 0) {
      g_seen[i] = static_cast<uint8_t>(g_seen[i] | c);
      found = true;
    }
  }
  return found;
}

void overwrite_number(Input& in) {
  static const uint64_t kInteresting[] = {0,
                                          1,
                                          2,
                                          7,
                                          8,
                                          16,
                                          64,
                                          127,
                                          128,
                                          255,
                                          256,
                                          4095,
                                          4096,
                                          4097,
                                          0x7fff,
                                          0x8000,
                                          0xffff,
                                          0x10000,
                                          0x7fffffff,
                                          0x80000000,
                                          0xffffffff,
                                          0x100000000,
                                          0x7fffffffffffffff,
                                          0x8000000000000000,
                                          0xfffffffffffff000,
                                          0xffffffffffffffff};
  const size_t width = size_t{1} << below(4);
  if (in.size() < width) return;
  size_t at = below(in.size() - width + 1);
  if (below(2) == 0) at = at / width * width;
  uint64_t v = 0;
  memcpy(&v, &in[at], width);
  switch (below(3)) {
    case 0:
      v = kInteresting[below(std::size(kInteresting))];
      break;
    case 1:
      v += below(65) - 32;
      break;
    default:
      v = in.size() - below(64);
      break;
  }
  memcpy(&in[at], &v, width);
}

void mutate(Input& in, const std::vector<Input>& corpus, size_t max_len) {
  for (uint64_t steps = 1 + below(4); steps > 0; steps--) {
    const size_t n = in.size();
    switch (below(8)) {
      case 0:
        if (n > 0) in[below(n)] ^= static_cast<uint8_t>(1u << below(8));
        break;
      case 1:
        if (n > 0) in[below(n)] = static_cast<uint8_t>(next_random());
        break;
      case 2:
        in.resize(below(n + 1));
        break;  // cut
      case 3:   // insert
        in.insert(in.begin() + static_cast<long>(below(n + 1)), 1 + below(16),
                  static_cast<uint8_t>(next_random()));
        break;
      case 4: {  // take out a piece
        const size_t at = below(n), len = below(std::min<size_t>(n - at, 64) + 1);
        in.erase(in.begin() + static_cast<long>(at), in.begin() + static_cast<long>(at + len));
        break;
      }
      case 5: {  // copy a piece of another input over
        const Input& other = corpus[below(corpus.size())];
        if (n == 0 || other.empty()) break;
        const size_t from = below(other.size()), to = below(n);
        const size_t len = 1 + below(std::min(other.size() - from, n - to));
        std::copy_n(other.begin() + static_cast<long>(from), std::min(len, n - to),
                    in.begin() + static_cast<long>(to));
        break;
      }
      default:
        overwrite_number(in);
        break;
    }
  }
  if (in.size() > max_len) in.resize(max_len);
}

bool read_file(const std::string& path, Input* ret) {
  FILE* f = fopen(path.c_str(), "rb");
  if (f == nullptr) return false;
  uint8_t buffer[65536];
  size_t n;
  while ((n = fread(buffer, 1, sizeof buffer, f)) > 0) ret->insert(ret->end(), buffer, buffer + n);
  fclose(f);
  return true;
}

void read_folder(const std::string& path, std::vector<Input>* ret) {
  std::vector<std::string> names;
  if (DIR* d = opendir(path.c_str())) {
    while (dirent* e = readdir(d)) {
      if (e->d_name[0] != '.') names.emplace_back(path + "/" + e->d_name);
    }
    closedir(d);
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    Input in;
    if (read_file(name, &in)) ret->push_back(std::move(in));
  }
}

struct Options {
  uint64_t seconds = 10, runs = UINT64_MAX, seed = 0, max_len = 65536;
  std::vector<std::string> files;
  std::vector<Input> corpus;
};

bool option(const char* arg, const char* name, uint64_t* ret) {
  const size_t n = strlen(name);
  if (strncmp(arg, name, n) != 0) return false;
  *ret = strtoull(arg + n, nullptr, 10);
  return true;
}

bool parse(int argc, char** argv, Options* ret) {
  for (int i = 1; i < argc; i++) {
    struct stat st;
    if (option(argv[i], "-seconds=", &ret->seconds) || option(argv[i], "-runs=", &ret->runs) ||
        option(argv[i], "-seed=", &ret->seed) || option(argv[i], "-max_len=", &ret->max_len)) {
      continue;
    }
    if (argv[i][0] == '-') {
      fprintf(stderr,
              "usage: %s [-seconds=10] [-runs=N] [-seed=N] [-max_len=65536] [file|folder ...]\n",
              argv[0]);
      return false;
    }
    if (stat(argv[i], &st) != 0) {
      fprintf(stderr, "fuzz: %s: %s; starting from nothing\n", argv[i], strerror(errno));
    } else if (S_ISDIR(st.st_mode)) {
      read_folder(argv[i], &ret->corpus);
    } else {
      ret->files.emplace_back(argv[i]);
    }
  }
  return true;
}

void fuzz(Options& o) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::seconds(o.seconds);
  if (o.corpus.empty()) o.corpus.emplace_back(Input(64));
  for (const Input& in : o.corpus) {
    run(in);
    found_new();
  }
  const size_t given = o.corpus.size();
  uint64_t done = 0;
  while (done < o.runs && Clock::now() < end) {
    // New inputs are tried more often: they are where something was found last.
    const size_t n = o.corpus.size();
    const size_t pick = below(2) == 0 ? below(n) : n - 1 - below(std::min<size_t>(n, 16));
    Input in = o.corpus[pick];
    mutate(in, o.corpus, o.max_len);
    run(in);
    done++;
    if (found_new()) o.corpus.push_back(std::move(in));
  }
  printf("fuzz: %s: %llu inputs, %zu of them reached something new, no failure (seed %llu)\n",
         g_program, static_cast<unsigned long long>(done), o.corpus.size() - given,
         static_cast<unsigned long long>(o.seed));
}

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
  const uintptr_t here = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  const size_t edge = (here * 0x9e3779b1u ^ g_last_block) % kEdges;
  if (g_hits[edge] < 255) g_hits[edge]++;
  g_last_block = (here * 0x9e3779b1u) >> 1;
}

int main(int argc, char** argv) {
  Options o;
  o.seed = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  g_program = argv[0];
  if (!parse(argc, argv, &o)) return 2;
  g_random = o.seed;
  __sanitizer_set_death_callback(save_failure);
  for (int sig : {SIGABRT, SIGALRM, SIGFPE, SIGILL}) signal(sig, on_signal);
  for (const std::string& name : o.files) {
    Input in;
    if (!read_file(name, &in)) {
      fprintf(stderr, "fuzz: %s: %s\n", name.c_str(), strerror(errno));
      return 2;
    }
    run(in);
    printf("fuzz: %s: %s: no failure\n", g_program, name.c_str());
  }
  if (o.files.empty()) fuzz(o);
  return 0;
}
