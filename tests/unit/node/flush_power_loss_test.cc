// SPDX-License-Identifier: MIT
// flush_power_loss_test.cc - power failures, and the death of the writer, at every step of flushing
// many checkpoints: in whatever state they may leave the shared directory, every file with a final
// name is whole, the newest one is that whose commit had returned or a later one, and the next
// writer can go on.
// Invariant under test: that, and that each barrier is needed, as in part_power_loss_test.cc.
// Context: N. CR_TEST_SEED=n gives other choices; the default is always the same.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "node/flusher.h"
#include "tests/unit/node/written_session.h"
#include "tests/unit/store/disk_model.h"

namespace {

using cr::node::FlushedFile;
using cr::node::Flusher;
using cr::node::FlushOptions;
using cr::node::SessionImage;
using cr::store::StorageStep;
using cr_test::Disk;
using cr_test::Expectation;
using cr_test::Loss;
using cr_test::Pages;
using cr_test::Random;
using cr_test::RecordedStep;
using cr_test::Recorder;
using cr_test::Shadow;

std::string make_temporary(const char* what) {
  const char* base = access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp";
  std::string name = std::string(base) + "/cr-power-" + what + "-XXXXXX";
  cr_assert_not_null(mkdtemp(name.data()));
  return name;
}

uint64_t seed() {
  const char* given = getenv("CR_TEST_SEED");
  return given != nullptr ? strtoull(given, nullptr, 0) : 1;
}

// A session that is flushed, by one process after the other. Its sequence numbers are its attempts.
class Story {
 public:
  Story() : random_(seed()), root_(make_temporary("flush")) {
    options_.dir = root_;
    options_.node = "here";
    options_.every = 1;
    options_.keep.last = 2;
  }
  ~Story() {
    flusher_.reset();
    cr::store::observe_storage(nullptr);
    std::filesystem::remove_all(root_);
  }

  Recorder& recorder() { return recorder_; }
  const std::vector<RecordedStep>& steps() const { return recorder_.steps; }
  const Expectation& now() const { return recorder_.now; }
  const std::string& root() const { return root_; }
  uint64_t sequence() const { return sequence_; }

  // The session's next checkpoint.
  void write() {
    cr::store::observe_storage(nullptr);
    for (uint64_t k = 1 + random_.below(6); k > 0; k--) {
      pages_[cr_test::kStart + random_.below(40) * cr::kPageSize] = 1 + random_.below(1000000);
    }
    session_.write({pages_}, ++sequence_);
    recorder_.now.begun = sequence_;
  }
  // A new process.
  void open(bool durable) {
    flusher_.reset();
    options_.durable = durable;
    options_.compress = random_.one_in(2);
    flusher_ = make(options_);
    recorder_.enter("open");
    flusher_->wake();
    flusher_->step(1);
    if (durable) recorder_.now.promised = true;
    recorder_.now.committed = std::max(recorder_.now.committed, flusher_->status().newest.sequence);
  }
  // Part of the work: a flush has four steps and more.
  void work(int steps) {
    recorder_.enter("flush");
    flusher_->wake();
    for (int i = 0; i < steps && !flusher_->is_idle(); i++) {
      flusher_->step(1);
      recorder_.now.committed =
          std::max(recorder_.now.committed, flusher_->status().newest.sequence);
    }
    cr_assert(flusher_->status().trouble.empty(), "%s", flusher_->status().trouble.c_str());
  }
  std::unique_ptr<Flusher> make(const FlushOptions& options) {
    auto image = SessionImage::open(session_.dir());
    cr_assert(image.has_value());
    std::string text;
    auto f = Flusher::make(
        {cr::node::session_id_of((*image)->super().session_id),
         "job",
         session_.dir(),
         {},
         getuid()},
        options, nullptr, [](const std::string&) {}, &text);
    cr_assert(f.has_value(), "%s", text.c_str());
    return std::move(*f);
  }
  const FlushOptions& options() const { return options_; }

 private:
  Random random_;
  const std::string root_;
  cr_test::WrittenSession session_;
  Pages pages_;
  uint64_t sequence_ = 0;
  FlushOptions options_;
  Recorder recorder_;
  std::unique_ptr<Flusher> flusher_;
};

// ------------------------------------------------------------------------------ verifying ------

// cared: every process did.
std::string judge(const std::string& root, const Expectation& e, bool cared) {
  std::vector<std::string> bad;
  std::string text;
  uint64_t newest = 0;
  for (const FlushedFile& f : cr::node::list_flushed(root, &bad)) {
    if (!cr::node::verify_flush(f.path, &text)) {
      bad.push_back(text);
    } else {
      newest = std::max(newest, f.triple.sequence);
    }
  }
  if (cared && !bad.empty()) return bad[0];
  if (newest >= e.committed && newest <= e.begun) return "";
  return "checkpoint " + std::to_string(newest) + " is the newest, not " +
         std::to_string(e.committed) + " to " + std::to_string(e.begun) +
         (bad.empty() ? "" : "; " + bad[0]);
}

// Goes on with a copy of what is there.
std::string go_on(Story& story, const std::string& root) {
  const std::string copy = make_temporary("copy");
  std::filesystem::copy(
      root, copy,
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
  FlushOptions options = story.options();
  options.dir = copy;
  options.durable = false;
  std::string wrong;
  {
    const auto f = story.make(options);
    f->request(1);
    for (uint64_t now = 1; !f->is_idle() && now < 1000; now++) f->step(now);
    const Expectation e{.committed = story.sequence(), .begun = story.sequence()};
    wrong = f->status().trouble + judge(copy, e, true);
  }
  std::filesystem::remove_all(copy);
  return wrong;
}

// ------------------------------------------------------------------------------ exploring ------

struct Outcome {
  size_t states = 0;
  std::string wrong;  // "": every state is right
};

Outcome explore(Story& story, const std::vector<RecordedStep>& steps, Loss loss,
                const Disk::Effort& effort, bool cared = true) {
  constexpr size_t kGoOnEach = 40;
  cr::store::observe_storage(nullptr);
  const std::string real = make_temporary("state");
  Outcome out;
  {
    Disk disk(loss, story.root());
    Shadow shadow(story.root(), real);
    Random random(seed() + 1);
    for (size_t i = 0; i <= steps.size() && out.wrong.empty(); i++) {
      const Expectation e = i < steps.size() ? steps[i].expected : story.now();
      const auto check = [&](const Disk::State& state) {
        out.states++;
        shadow.become(state);
        std::string wrong = judge(real, e, cared);
        if (wrong.empty() && cared && out.states % kGoOnEach == 0) wrong = go_on(story, real);
        if (wrong.empty()) return true;
        out.wrong = "before step " + std::to_string(i) + " (" +
                    (i < steps.size() ? steps[i].label : "the end") + "): " + wrong;
        return false;
      };
      if (e.promised) (void)disk.visit(effort, random, check);
      if (i < steps.size()) disk.issue(steps[i]);
    }
  }
  std::filesystem::remove_all(real);
  return out;
}

void expect_right(const char* what, Story& story, Loss loss, const Disk::Effort& effort,
                  bool cared = true) {
  const Outcome out = explore(story, story.steps(), loss, effort, cared);
  fprintf(stderr, "%s: %zu steps, %zu states, CR_TEST_SEED=%lu\n", what, story.steps().size(),
          out.states, static_cast<unsigned long>(seed()));
  cr_assert(out.wrong.empty(), "CR_TEST_SEED=%lu: %s", static_cast<unsigned long>(seed()),
            out.wrong.c_str());
  cr_assert_gt(out.states, 100u);
}

constexpr Disk::Effort kThorough{.all_subsets_below = 6, .singles = 24, .samples = 24};
constexpr Disk::Effort kQuick{.all_subsets_below = 4, .singles = 12, .samples = 6};

void tell_many(Story& story, int checkpoints, bool durable) {
  Random random(seed() + 2);
  story.write();
  story.open(durable);
  for (int i = 0; i < checkpoints; i++) {
    if (i > 0) story.write();
    if (random.one_in(3)) {
      story.work(static_cast<int>(random.below(5)));
      if (random.one_in(2)) story.write();
      story.open(durable);
    }
    story.work(1000);
  }
}

// By a process that did not care, and then by one that does.
void tell_upgrade(Story& story, int checkpoints_before) {
  story.recorder().now.promised = false;
  story.write();
  story.open(false);
  for (int i = 0; i < checkpoints_before + 2; i++) {
    if (i == checkpoints_before) story.open(true);
    story.write();
    story.work(1000);
  }
}

std::vector<RecordedStep> without(std::vector<RecordedStep> steps, const std::string& label) {
  std::erase_if(steps, [&](const RecordedStep& s) { return s.label == label; });
  return steps;
}

}  // namespace

Test(flush_power_loss, leaves_whole_files_alone) {
  Story story;
  tell_many(story, 12, true);
  expect_right("power loss", story, Loss::kPower, kThorough);
}

Test(flush_power_loss, after_a_process_that_did_not_care) {
  Story story;
  tell_upgrade(story, 3);
  expect_right("upgrade", story, Loss::kPower, kThorough, /*cared=*/false);
}

Test(flush_power_loss, writer_killed) {
  Story story;
  tell_many(story, 12, false);
  expect_right("writer killed", story, Loss::kWriter, kThorough);
  for (const RecordedStep& s : story.steps()) {
    cr_assert(s.kind != StorageStep::kSync && s.kind != StorageStep::kSyncDirectory,
              "who did not ask for it does not wait for disks");
  }
}

// The proof that the tests above can fail.
Test(flush_power_loss, every_barrier_is_needed) {
  std::set<std::string> barriers, found;
  const auto try_all = [&](Story& story, bool cared) {
    expect_right("with all barriers", story, Loss::kPower, kQuick, cared);
    std::set<std::string> labels;
    for (const RecordedStep& s : story.steps()) {
      if (s.kind == StorageStep::kSync || s.kind == StorageStep::kSyncDirectory) {
        labels.insert(s.label);
      }
    }
    for (const std::string& label : labels) {
      barriers.insert(label);
      if (found.contains(label)) continue;
      const Outcome out =
          explore(story, without(story.steps(), label), Loss::kPower, kQuick, cared);
      if (out.wrong.empty()) continue;
      found.insert(label);
      fprintf(stderr, "without \"%s\": %s\n", label.c_str(), out.wrong.c_str());
    }
  };
  {
    Story many;
    tell_many(many, 8, true);
    try_all(many, true);
  }
  {
    Story upgrade;
    tell_upgrade(upgrade, 3);
    try_all(upgrade, false);
  }
  for (const std::string& b : barriers) {
    cr_expect(found.contains(b), "nobody missed \"%s\"", b.c_str());
  }
}

Test(flush_power_loss, the_name_must_come_last) {
  Story story;
  tell_many(story, 6, true);
  std::vector<RecordedStep> steps;
  size_t begun = 0;
  for (const RecordedStep& s : story.steps()) {
    if (s.kind == StorageStep::kRename) {
      steps.insert(steps.begin() + static_cast<ptrdiff_t>(begun), s);
      continue;
    }
    steps.push_back(s);
    if (s.kind == StorageStep::kCreate) begun = steps.size();
  }
  cr_assert_not(explore(story, steps, Loss::kPower, kQuick).wrong.empty());
  cr_assert_not(explore(story, steps, Loss::kWriter, kQuick).wrong.empty());
}

Test(flush_power_loss, the_writer_must_wait_before_it_commits) {
  Story story;
  tell_many(story, 6, false);
  std::vector<RecordedStep> steps = story.steps();
  std::erase_if(steps, [](const RecordedStep& s) { return s.kind == StorageStep::kDrain; });
  cr_assert_not(explore(story, steps, Loss::kWriter, kQuick).wrong.empty());
}
