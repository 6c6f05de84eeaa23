/* SPDX-License-Identifier: MIT */
/*
 * demo_common.h - what the three demo programs share: options, the checkpoint session, memory, a
 * team of threads, a random number generator and a checksum.
 *
 * Invariant: nothing that a demo prints on stdout depends on time, on the number of threads or on
 * how often the program was checkpointed, killed and restored; talk about checkpoints goes to
 * stderr. Every random number comes from a seeded generator, every floating-point sum is added up
 * in an order that the number of threads does not change.
 *
 * Context: normal code (docs/contexts.md, N). How to run the demos: demos/README.md.
 */
#ifndef DEMOS_DEMO_COMMON_H
#define DEMOS_DEMO_COMMON_H

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "checkpoint_restore.h"

namespace cr::demo {

inline constexpr int kExitFailure = 1;
inline constexpr int kExitMisuse = 2;
inline constexpr unsigned kMaxThreads = 256;

/* ------------------------------------------------------------------------- messages --------- */

inline const char* program_name = "demo";

[[gnu::format(printf, 1, 2)]] inline void note(const char* format, ...) {
  char line[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof line, format, args);
  va_end(args);
  fprintf(stderr, "%s: %s\n", program_name, line);
}

[[noreturn]] inline void die(const char* what, int error) {
  note("%s: %s", what, strerror(error));
  exit(kExitFailure);
}

/* ------------------------------------------------------------------------- options ---------- */

/* One row of the table that both parses the command line and prints --help. */
struct OptionSpec {
  enum Kind { kFlag, kWhole, kReal, kText };
  const char* name;
  Kind kind;
  void* target; /* bool, uint64_t, double or const char *, as kind says; holds the default */
  const char* argument;
  const char* help;
  double min = 0;
  double max = 0;
};

struct CommonOptions {
  uint64_t threads = 2;
  uint64_t seed = 1;
  double interval_seconds = 0;
  uint64_t checkpoint_every = 0;
  const char* image_dir = nullptr;
  bool resume = false;
  bool no_checkpoint = false;
  bool verify = false;
};

inline constexpr size_t kMaxOptions = 32;

/* The rows of the demo itself, then those that all demos have. */
class OptionTable {
 public:
  explicit OptionTable(const char* summary) : summary_(summary) {}

  void add(const OptionSpec& spec) {
    if (count_ < kMaxOptions) specs_[count_++] = spec;
  }

  void add_common(CommonOptions& common) {
    using S = OptionSpec;
    add({"threads", S::kWhole, &common.threads, "N", "threads, the main thread included", 1,
         double(kMaxThreads)});
    add({"seed", S::kWhole, &common.seed, "N", "seed of the generated input", 0, 1e15});
    add({"interval", S::kReal, &common.interval_seconds, "SECONDS",
         "take a checkpoint by itself so often; 0: never", 0, 1e6});
    add({"checkpoint-every", S::kWhole, &common.checkpoint_every, "K",
         "call checkpoint() after every K iterations; 0: never", 0, 1e9});
    add({"image", S::kText, &common.image_dir, "DIR",
         "image directory, instead of ./<program>.image"});
    add({"resume", S::kFlag, &common.resume, nullptr,
         "go on from the image directory if it holds a whole checkpoint"});
    add({"no-checkpoint", S::kFlag, &common.no_checkpoint, nullptr,
         "do not call crinit() at all; the four options above then do nothing"});
    add({"verify", S::kFlag, &common.verify, nullptr,
         "afterwards compute all again in one thread and plain memory, and compare every bit"});
  }

  /* Returns after a good command line; --help and misuse end the program. */
  void parse(int argc, char** argv) const {
    for (int i = 1; i < argc; ++i)
      if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) print_help();
    struct option longs[kMaxOptions + 1] = {};
    for (size_t i = 0; i < count_; ++i)
      longs[i] = {specs_[i].name,
                  specs_[i].kind == OptionSpec::kFlag ? no_argument : required_argument, nullptr,
                  int(i) + 256};
    int code;
    while ((code = getopt_long(argc, argv, "", longs, nullptr)) != -1) {
      if (code < 256) misuse(nullptr, nullptr); /* getopt_long has said what is wrong */
      set(specs_[code - 256], optarg);
    }
    if (optind < argc) misuse("unexpected argument", argv[optind]);
  }

 private:
  [[noreturn]] void misuse(const char* what, const char* value) const {
    if (what) note("%s: %s", what, value);
    note("try: %s --help", program_name);
    exit(kExitMisuse);
  }

  void set(const OptionSpec& spec, const char* text) const {
    if (spec.kind == OptionSpec::kFlag) {
      *static_cast<bool*>(spec.target) = true;
      return;
    }
    if (spec.kind == OptionSpec::kText) {
      *static_cast<const char**>(spec.target) = text;
      return;
    }
    char* end = nullptr;
    errno = 0;
    double real = strtod(text, &end);
    bool whole = spec.kind == OptionSpec::kWhole;
    bool good = end != text && *end == '\0' && errno == 0 && real >= spec.min && real <= spec.max &&
                (!whole || real == floor(real));
    if (!good) {
      note("--%s %s: not %s from %.15g to %.15g", spec.name, text,
           whole ? "a whole number" : "a number", spec.min, spec.max);
      misuse(nullptr, nullptr);
    }
    if (whole)
      *static_cast<uint64_t*>(spec.target) = uint64_t(real);
    else
      *static_cast<double*>(spec.target) = real;
  }

  [[noreturn]] void print_help() const {
    printf("Usage: %s [OPTION]...\n%s\n\nOptions:\n", program_name, summary_);
    for (size_t i = 0; i < count_; ++i) {
      const OptionSpec& spec = specs_[i];
      char left[64];
      snprintf(left, sizeof left, "--%s%s%s", spec.name, spec.argument ? " " : "",
               spec.argument ? spec.argument : "");
      printf("  %-24s %s", left, spec.help);
      if (spec.kind == OptionSpec::kWhole)
        printf(" (default %llu)", (unsigned long long)*static_cast<uint64_t*>(spec.target));
      if (spec.kind == OptionSpec::kReal)
        printf(" (default %g)", *static_cast<double*>(spec.target));
      const char* text =
          spec.kind == OptionSpec::kText ? *static_cast<const char**>(spec.target) : nullptr;
      if (text) printf(" (default %s)", text);
      putchar('\n');
    }
    printf("  %-24s %s\n", "--help", "print this text");
    printf(
        "\nProgress and result go to stdout, words about checkpoints to stderr.\n"
        "Exit status: 0 done, 1 failed or not verified, 2 wrong usage.\n");
    exit(0);
  }

  const char* summary_;
  OptionSpec specs_[kMaxOptions] = {};
  size_t count_ = 0;
};

/* ------------------------------------------------------------------------- session ---------- */

/* Rises in every restored process. It is the hook that counts, because a restore from an automatic
 * checkpoint comes back in the middle of the computation, not out of a call. */
inline std::atomic<unsigned> restores_made{0};

/* The program's side of checkpointing. Only the main thread calls it. */
class Session {
 public:
  /* With --resume and a whole image this does not return: the restored process goes on instead. */
  void start(const CommonOptions& options) {
    if (options.no_checkpoint) return;
    struct crattr attr = CRATTR_INIT;
    attr.image_dir = options.image_dir;
    attr.interval_seconds = options.interval_seconds;
    if (options.resume) attr.flags |= CR_RESUME;
    if (crinit(&attr) != 0) {
      int error = errno;
      const char* text = crerror();
      note("crinit: %s", text && *text ? text : strerror(error));
      exit(kExitFailure);
    }
    active_ = true;
    every_ = options.checkpoint_every;
    if (crhook(CR_HOOK_AFTER_RESTORE, count_restore, nullptr) != 0)
      note("crhook: %s; restores from automatic checkpoints will not be announced", crerror());
    struct crstatus status = {};
    status.size = sizeof status;
    const char* dir = crstatus(&status) == 0 ? status.image_dir : "(unknown)";
    note("process %ld, image directory %s%s", long(getpid()), dir,
         options.resume ? ", holds no whole checkpoint yet: starting from the beginning" : "");
  }

  /* Call after each iteration, with no lock held. */
  void iteration_done(uint64_t iteration) {
    if (!active_) return;
    unsigned made = restores_made.load(std::memory_order_relaxed);
    if (made != restores_seen_) {
      restores_seen_ = made;
      note("restored: iteration %llu is done", (unsigned long long)iteration);
    }
    if (every_ != 0 && iteration % every_ == 0) take_checkpoint(iteration);
  }

 private:
  static void count_restore(void*) { restores_made.fetch_add(1, std::memory_order_relaxed); }

  /* checkpoint() returns twice: once in this process, and again in each one restored from it. */
  [[gnu::noinline]] void take_checkpoint(uint64_t iteration) {
    int result = checkpoint();
    if (result == 0 && checkpoint_wait(CR_LEVEL_MEMORY) != 0) result = -1;
    if (result == 0) {
      report_taken(iteration);
    } else if (result == CR_RESTORED) {
      restores_seen_ = restores_made.load(std::memory_order_relaxed);
      note("restored: checkpoint() returned again, %d this time; going on after iteration %llu",
           result, (unsigned long long)iteration);
    } else {
      int error = errno;
      const char* text = crerror();
      note("no checkpoint after iteration %llu: %s; running on", (unsigned long long)iteration,
           text && *text ? text : strerror(error));
    }
  }

  static void report_taken(uint64_t iteration) {
    struct crstatus status = {};
    status.size = sizeof status;
    if (crstatus(&status) != 0) {
      note("checkpoint taken after iteration %llu", (unsigned long long)iteration);
      return;
    }
    note("checkpoint taken after iteration %llu: sequence %llu, %.1f MiB written, pause %.2f ms",
         (unsigned long long)iteration, (unsigned long long)status.sequence,
         double(status.image_bytes) / 1048576.0, double(status.pause_ns) / 1e6);
  }

  bool active_ = false;
  uint64_t every_ = 0;
  unsigned restores_seen_ = 0;
};

/* ------------------------------------------------------------------------- memory ----------- */

/* The computation lives in the nvheap; the serial reference of --verify in plain memory. */
enum class Memory { kNvheap, kPlain };

inline void* get_zeroed(Memory kind, size_t count, size_t size) {
  void* memory = kind == Memory::kNvheap ? crcalloc(count, size) : calloc(count, size);
  if (!memory) die("out of memory", errno);
  return memory;
}

inline void* grow(Memory kind, void* old, size_t size) {
  void* memory = kind == Memory::kNvheap ? crrealloc(old, size) : realloc(old, size);
  if (!memory) die("out of memory", errno);
  return memory;
}

inline void give_back(Memory kind, void* memory) {
  if (kind == Memory::kNvheap)
    crfree(memory);
  else
    free(memory);
}

/* An array of plain values, zero at first. */
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Memory kind, size_t count)
      : kind_(kind), count_(count), data_(static_cast<T*>(get_zeroed(kind, count, sizeof(T)))) {}
  Buffer(Buffer&& other) noexcept
      : kind_(other.kind_),
        count_(std::exchange(other.count_, 0)),
        data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(count_, other.count_);
    std::swap(data_, other.data_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_) give_back(kind_, data_);
  }

  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return count_; }
  size_t size_bytes() const { return count_ * sizeof(T); }

 private:
  Memory kind_ = Memory::kPlain;
  size_t count_ = 0;
  T* data_ = nullptr;
};

template <class T>
bool same_bits(const Buffer<T>& a, const Buffer<T>& b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

inline bool same_bits(double a, double b) { return memcmp(&a, &b, sizeof a) == 0; }

/* ------------------------------------------------------------------------- team ------------- */

/* Threads that run one function together: the main thread is number 0, the others are CR-threads.
 * Work is handed out by claim() in any order; results must go to a place that depends on the
 * claimed number only. A team of one makes no call into the library. */
class Team {
 public:
  Team(Memory kind, unsigned threads)
      : kind_(kind), threads_(threads), shared_(new_shared(kind)), members_(kind, threads) {
    if (threads_ == 1) return;
    if (int error = crmutex_init(&shared_->mutex, CRMUTEX_NORMAL)) die("crmutex_init", error);
    if (int error = crbarrier_init(&shared_->barrier, threads_)) die("crbarrier_init", error);
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    if (threads_ > 1) {
      (void)crbarrier_destroy(&shared_->barrier);
      (void)crmutex_destroy(&shared_->mutex);
    }
    give_back(kind_, shared_);
  }

  unsigned threads() const { return threads_; }

  /* Runs body(number) in every thread of the team; returns when all have ended. */
  template <class Body>
  void run(Body& body) {
    for (unsigned i = 1; i < threads_; ++i) {
      Member& member = members_[i];
      member = {&call<Body>, &body, i, nullptr};
      char name[16];
      snprintf(name, sizeof name, "%.11s-%u", program_name, i % kMaxThreads);
      crthread_attr_t attr = {};
      attr.size = sizeof attr;
      attr.name = name;
      if (int error = crthread_create(&member.thread, &attr, start, &member))
        die("crthread_create", error);
    }
    body(0u);
    for (unsigned i = 1; i < threads_; ++i)
      if (int error = crthread_join(members_[i].thread, nullptr)) die("crthread_join", error);
  }

  /* Waits until every thread of the team is here. */
  void barrier() {
    if (threads_ == 1) return;
    int result = crbarrier_wait(&shared_->barrier);
    if (result != 0 && result != CRBARRIER_SERIAL_THREAD) die("crbarrier_wait", result);
  }

  /* The next piece of work, or limit when all pieces are taken. */
  size_t claim(size_t limit) {
    if (threads_ > 1)
      if (int error = crmutex_lock(&shared_->mutex)) die("crmutex_lock", error);
    size_t piece = shared_->next < limit ? shared_->next++ : limit;
    if (threads_ > 1)
      if (int error = crmutex_unlock(&shared_->mutex)) die("crmutex_unlock", error);
    return piece;
  }

  /* Starts handing out from 0 again; by one thread, while the others wait at a barrier. */
  void rewind() { shared_->next = 0; }

  /* All threads together: work(piece) for every piece, in whichever thread is free. */
  template <class Work>
  void share(unsigned number, size_t pieces, Work work) {
    for (size_t piece; (piece = claim(pieces)) < pieces;) work(piece);
    barrier();
    if (number == 0) rewind();
    barrier();
  }

 private:
  struct Shared {
    crmutex_t mutex;
    crbarrier_t barrier;
    size_t next;
  };
  struct Member {
    void (*call)(void* body, unsigned number);
    void* body;
    unsigned number;
    crthread_t thread;
  };

  static Shared* new_shared(Memory kind) {
    return static_cast<Shared*>(get_zeroed(kind, 1, sizeof(Shared)));
  }
  template <class Body>
  static void call(void* body, unsigned number) {
    (*static_cast<Body*>(body))(number);
  }
  static void* start(void* argument) {
    auto* member = static_cast<Member*>(argument);
    member->call(member->body, member->number);
    return nullptr;
  }

  Memory kind_;
  unsigned threads_;
  Shared* shared_;
  Buffer<Member> members_;
};

/* Cuts `count` items into a number of parts that does not depend on the number of threads. */
inline constexpr size_t kParts = 64;

struct Range {
  size_t begin;
  size_t end;
};

inline Range part_of(size_t count, size_t part) {
  return {count * part / kParts, count * (part + 1) / kParts};
}

/* ------------------------------------------------------------------------- numbers ---------- */

/* SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). */
struct Random {
  uint64_t state;

  static Random stream(uint64_t seed, uint64_t number) {
    Random random{seed * 0xd1342543de82ef95u + number};
    random.state = random.next() ^ number;
    return random;
  }
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /* In [0, 1). */
  double uniform() { return double(next() >> 11) * 0x1p-53; }
  /* In [0, limit), limit < 2^32. */
  uint32_t below(uint32_t limit) { return uint32_t(((next() >> 32) * limit) >> 32); }
  /* Nearly normal, mean 0 and variance 1: a sum of uniforms, so no libm and the same everywhere. */
  double normal() {
    uint64_t a = next(), b = next(), c = next();
    uint64_t sum = (a >> 32) + (a & 0xffffffffu) + (b >> 32) + (b & 0xffffffffu) + (c >> 32) +
                   (c & 0xffffffffu);
    return (double(sum) * 0x1p-32 - 3.0) * 1.4142135623730951;
  }
};

/* FNV-1a with 64 bits, over bytes in the order given. */
class Checksum {
 public:
  void add(const void* data, size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) sum_ = (sum_ ^ bytes[i]) * 0x100000001b3u;
  }
  template <class T>
  void add(const Buffer<T>& buffer) {
    add(buffer.data(), buffer.size_bytes());
  }
  unsigned long long value() const { return sum_; }

 private:
  uint64_t sum_ = 0xcbf29ce484222325u;
};

/* ------------------------------------------------------------------------- main ------------- */

/* What every main() does first. */
inline void begin(const char* name) {
  program_name = name;
  setvbuf(stdout, nullptr, _IOLBF, 0); /* a killed run has shown all it has done */
}

/* What every main() does last; same: did the reference of --verify agree. */
inline int finish(bool wanted, bool same) {
  if (wanted) puts(same ? "verified" : "NOT VERIFIED: the serial reference differs");
  if (fflush(stdout) != 0 || ferror(stdout)) die("stdout", errno);
  return !wanted || same ? 0 : kExitFailure;
}

}  // namespace cr::demo

#endif /* DEMOS_DEMO_COMMON_H */
