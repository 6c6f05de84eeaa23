// SPDX-License-Identifier: MIT
// disk_model.h - what a power failure, or the death of the writer, may leave of a directory.
// Invariant: a state that a real disk can be in after the recorded steps is one that visit() may
// produce. The model promises less than real file systems do: of what no barrier covers, any part
// may be on the disk: each write all, nothing, or some of its 512-byte sectors; each change of a
// size, each hole and each name by itself, in any order. It promises that a sector is written whole
// or not at all, and that a rename happens in both directories or in none.
// Context: N.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "store/file.h"
#include "tests/unit/nvheap/random.h"

namespace cr_test {

// What must be true if everything ends just before a step. Checkpoints are named by their attempt.
struct Expectation {
  uint64_t committed = 0;       // commit() has returned; 0: none yet
  uint64_t begun = 0;           // the one being written
  uint64_t kept = 0;            // the newest of an earlier run, and the one before: ...
  uint64_t kept_older = 0;      // ... must be whole, here or in interrupted.N
  bool promised = true;         // false: nothing is promised yet
  bool moving = false;          // the newest of the earlier run may be here still
  bool discarding = false;      // anything of an earlier run may be here still
  bool finished_marker = true;  // may be there
};

struct RecordedStep {
  cr::store::StorageStep::Kind kind;
  std::string path, to;
  std::vector<uint8_t> data;
  uint64_t off, bytes;
  std::string label;  // what it is for, the same in every checkpoint
  Expectation expected;
};

class Recorder : public cr::store::StorageObserver {
 public:
  Recorder() = default;
  ~Recorder() override { cr::store::observe_storage(nullptr); }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  void step(const cr::store::StorageStep& step) override;
  // From here on steps are this one's, and belong to this part of the protocol.
  void enter(const std::string& phase);

  std::vector<RecordedStep> steps;
  Expectation now;

 private:
  std::string phase_;
  std::map<std::string, int> count_;
};

enum class Loss {
  kPower,   // what no barrier covers may be lost
  kWriter,  // the writer was killed: only writes that were under way may be lost
};

class Disk {
 public:
  struct State {
    std::map<std::string, int> names;  // path -> inode
    std::map<int, std::vector<uint8_t>> files;
    std::map<int, bool> is_directory;
  };

  Disk(Loss loss, const std::string& root) : loss_(loss), root_(root) {}
  void issue(const RecordedStep& step);
  // How many states visit() makes; more where more is open.
  struct Effort {
    size_t all_subsets_below = 5;  // with fewer open operations all combinations are tried
    size_t singles = 24;           // one operation alone present, or alone absent
    size_t samples = 12;           // random choices, half of them with torn writes
  };
  // Calls check(state) for states that are possible now, until it returns false. false: it did.
  bool visit(const Effort& effort, Random& random, const std::function<bool(const State&)>& check);
  bool has_open() const { return !open_.empty(); }

 private:
  struct Operation {
    enum Kind { kData, kGrow, kResize, kZero, kLink, kRename, kUnlink } kind;
    int inode;
    const RecordedStep* step;
    uint64_t off, bytes;
  };
  enum class Fate { kLost, kDone, kTorn };
  void add(Operation operation, bool asynchronous);
  static void apply(const Operation& operation, State& state, Random* tear);
  void settle(const std::function<bool(const Operation&)>& covered);

  Loss loss_;
  std::string root_;
  int inodes_ = 0;
  std::map<std::string, int> live_names_;
  std::map<int, uint64_t> live_bytes_;
  State durable_;
  std::vector<Operation> open_;
};

std::string parent_of(const std::string& path);
// Brings a real directory into that state, quickly if it is near the one before.
class Shadow {
 public:
  Shadow(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}
  void become(const Disk::State& state);

 private:
  std::string from_, to_;
  std::map<std::string, std::vector<uint8_t>> files_;
  std::map<std::string, bool> directories_;
};

}  // namespace cr_test
