/* SPDX-License-Identifier: MIT */
/*
 * mergesort.cc - sorts integers by merging, with a checkpoint() after every single merge: how often
 * can one take a checkpoint?
 *
 * Invariant: stdout holds the sorted array's checksum and nothing that depends on time or on how
 * often the program was checkpointed, killed and restored; times go to stderr.
 *
 * Context: normal code (docs/contexts.md, N). How to run it: demos/README.md.
 */
#include <time.h>

#include "demo_common.h"

namespace cr::demo {
namespace {

double seconds_now() {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

class MergeSort {
 public:
  MergeSort(uint64_t count, uint64_t seed, bool checkpoints)
      : count_(count), checkpoints_(checkpoints) {
    values_ = static_cast<uint32_t*>(allocate(count));
    merged_ = static_cast<uint32_t*>(allocate(count));
    uint64_t x = seed * 2 + 1;
    for (uint64_t i = 0; i < count; i++) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      values_[i] = uint32_t(x >> 33);
    }
  }

  /* Merges neighbours until one run is left: count - 1 merges. */
  void sort() {
    for (uint64_t run = 1; run < count_; run *= 2) {
      for (uint64_t left = 0; left + run < count_; left += 2 * run) {
        merge(left, left + run, left + 2 * run < count_ ? left + 2 * run : count_);
        if (checkpoints_) take_checkpoint();
      }
    }
    if (checkpoints_ && taken_ > 0 && checkpoint_wait(CR_LEVEL_MEMORY) != 0)
      note("the last checkpoint is not whole: %s", crerror());
  }

  bool is_sorted() const {
    for (uint64_t i = 1; i < count_; i++)
      if (values_[i - 1] > values_[i]) return false;
    return true;
  }

  uint64_t checksum() const {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count_; i++) sum = sum * 31 + values_[i];
    return sum;
  }

  uint64_t taken() const { return taken_; }

 private:
  static void* allocate(uint64_t count) {
    void* block = crmalloc(count * sizeof(uint32_t));
    if (block == nullptr) die("crmalloc", errno);
    return block;
  }

  void merge(uint64_t left, uint64_t middle, uint64_t right) {
    uint64_t a = left, b = middle, to = left;
    while (to < right) {
      const bool from_left = b == right || (a < middle && values_[a] <= values_[b]);
      merged_[to++] = from_left ? values_[a++] : values_[b++];
    }
    memcpy(values_ + left, merged_ + left, (right - left) * sizeof(uint32_t));
  }

  void take_checkpoint() {
    const int result = checkpoint();
    if (result == CR_RESTORED) note("restored after merge %llu", (unsigned long long)taken_ + 1);
    if (result < 0) {
      note("no checkpoint: %s", crerror());
      exit(kExitFailure);
    }
    taken_++;
  }

  uint64_t count_;
  bool checkpoints_;
  uint32_t *values_, *merged_;
  uint64_t taken_ = 0;
};

int main_mergesort(int argc, char** argv) {
  program_name = "mergesort";
  uint64_t count = 8192, seed = 1;
  const char* image_dir = nullptr;
  bool resume = false, no_checkpoint = false;
  OptionTable table("Sorts integers by merging, with a checkpoint() after every merge.");
  using S = OptionSpec;
  table.add({"count", S::kWhole, &count, "N", "integers to sort", 2, 1e9});
  table.add({"seed", S::kWhole, &seed, "N", "seed of the integers", 0, 1e15});
  table.add({"image", S::kText, &image_dir, "DIR",
             "image directory, instead of ./mergesort.image; in /dev/shm it is memory"});
  table.add({"resume", S::kFlag, &resume, nullptr,
             "go on from the image directory if it holds a whole checkpoint"});
  table.add({"no-checkpoint", S::kFlag, &no_checkpoint, nullptr, "only sort"});
  table.parse(argc, argv);

  if (!no_checkpoint) {
    struct crattr attr = CRATTR_INIT;
    attr.image_dir = image_dir;
    attr.durable = CR_DURABLE_CRASH; /* thousands of fdatasyncs would measure the disk */
    if (resume) attr.flags |= CR_RESUME;
    if (crinit(&attr) != 0) {
      note("crinit: %s", crerror());
      return kExitFailure;
    }
  }
  MergeSort sort(count, seed, !no_checkpoint);
  const double begin = seconds_now();
  sort.sort();
  note("%.4f s, %llu checkpoints", seconds_now() - begin, (unsigned long long)sort.taken());
  printf("%llu integers, checksum %016llx, %s\n", (unsigned long long)count,
         (unsigned long long)sort.checksum(), sort.is_sorted() ? "sorted" : "NOT SORTED");
  return sort.is_sorted() ? 0 : kExitFailure;
}

}  // namespace
}  // namespace cr::demo

int main(int argc, char** argv) { return cr::demo::main_mergesort(argc, argv); }
