// SPDX-License-Identifier: MIT
// power_loss_test.cc - power failures, and the death of the writer, at every step of many
// checkpoints: in whatever state they may leave the directory, the checkpoint whose commit had
// returned, or the one being written, is chosen, and it is whole, byte for byte.
// Invariant under test: that, and that each barrier is needed: a record from which one is taken out
// has a state that is wrong, so this test would have found it missing.
// Context: N. CR_TEST_SEED=n gives other choices; the default is always the same.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "agent/session.h"
#include "agent/supervisor.h"
#include "agent/verify.h"
#include "format/checksum.h"
#include "store/delta.h"
#include "tests/unit/format/synthetic_image.h"
#include "tests/unit/store/disk_model.h"

namespace {

using cr::kPageSize;
using cr::store::BufferIndex;
using cr::store::BufferWriter;
using cr_test::Disk;
using cr_test::Expectation;
using cr_test::Loss;
using cr_test::Random;
using cr_test::RecordedStep;
using cr_test::Recorder;
using cr_test::Shadow;
using Pages = std::map<uint64_t, uint64_t>;  // address -> what it is filled with, 0: zeros

constexpr uint64_t kStart = 0x100000;

// In memory where possible: no waiting for a real disk.
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

void fill(uint8_t* page, uint64_t what) {
  for (uint64_t i = 0; i < kPageSize; i += 8) {
    const uint64_t word = what * (i + 1);
    memcpy(page + i, &word, 8);
  }
}

struct Written {
  Pages pages;
  cr::format::SuperBlock super;
};

// Checkpoints written as a session writes them, and what each of them must hold.
class Story {
 public:
  explicit Story(uint64_t pages)
      : random_(seed()), most_pages_(pages), root_(make_temporary("story")) {}
  ~Story() { std::filesystem::remove_all(root_); }

  Recorder& recorder() { return recorder_; }
  const std::vector<RecordedStep>& steps() const { return recorder_.steps; }
  const Expectation& now() const { return recorder_.now; }
  const std::string& root() const { return root_; }
  std::string dir() const { return root_ + "/image.dir"; }
  const std::map<uint64_t, Written>& written() const { return written_; }
  void set_durable(bool durable) { durable_ = durable; }

  void make_directory() {
    recorder_.enter("session");
    cr_assert(cr::store::make_directory(dir()).has_value());
  }
  // A new agent, which knows nothing of what the buffers hold.
  void forget() {
    delta_.reset();
    buffers_[0] = buffers_[1] = {};
  }
  // A new program.
  void begin_run() {
    forget();
    newest_ = -1;
    sequence_ = 0;
    session_++;
    pages_.clear();
  }
  Pages& pages() { return pages_; }

  // Overwrites, zeroes, frees or adds some pages.
  void change() {
    const uint64_t begin = random_.below(most_pages_), how = random_.below(6);
    const uint64_t most = how == 0 ? most_pages_ : most_pages_ / 3;
    const uint64_t end = std::min(most_pages_, begin + 1 + random_.below(most));
    for (uint64_t i = begin; i < end; i++) {
      const uint64_t addr = kStart + i * kPageSize;
      if (how == 1) {
        pages_.erase(addr);
      } else if (how == 2) {
        pages_[addr] = 0;
      } else if (how == 3 && random_.one_in(2)) {
        continue;
      } else {
        pages_[addr] = 1 + random_.below(1000000);
      }
    }
  }

  void checkpoint(bool abandon = false) {
    const int index = newest_ == 0 ? 1 : 0;
    const bool same = newest_ >= 0 && buffers_[newest_].known && !random_.one_in(4);
    cr_test::SyntheticImage made;
    cr::store::Model& model = made.model;
    describe(model);
    std::string staging;
    const std::vector<cr::format::Run> runs = stage(same, staging);
    cr::format::SuperBlock super{};
    super.epoch = 1;
    super.sequence = sequence_ + 1;
    super.attempt = ++attempts_;
    super.session_id[0] = static_cast<uint8_t>(session_);

    recorder_.enter("open");
    recorder_.now.begun = attempts_;
    auto writer = BufferWriter::open(dir(), index, durable_, buffers_[index]);
    cr_assert(writer.has_value(), "%s", writer.error().what);
    recorder_.enter("begin");
    cr_assert((*writer)->begin(super).has_value());
    recorder_.now.promised = recorder_.now.promised || durable_;
    if (same) cr_assert((*writer)->set_last(dir(), newest_, buffers_[newest_]).has_value());
    recorder_.enter("append");
    const auto half = runs.begin() + static_cast<ptrdiff_t>(runs.size() / 2);
    auto never = [](void*, uint64_t) { return false; };
    const auto* data = reinterpret_cast<const uint8_t*>(staging.data());
    for (const auto& part : {std::vector(runs.begin(), half), std::vector(half, runs.end())}) {
      cr_assert((*writer)->append(model, data, part, never, nullptr).has_value());
    }
    if (abandon) {
      recorder_.now.begun = recorder_.now.committed;
      return;
    }
    recorder_.enter("commit");
    // What it will hold must be known to a state in which it has just come true.
    Written& w = written_[attempts_];
    w.pages = pages_;
    std::erase_if(w.pages, [](const auto& p) { return p.second == 0; });
    cr_assert((*writer)->commit(model, &super).has_value());
    w.super = super;
    recorder_.now.committed = attempts_;
    recorder_.now.moving = recorder_.now.discarding = false;
    recorder_.enter("session");
    newest_ = index;
    sequence_++;
    before_last_ = std::move(last_);
    last_ = pages_;
    if (delta_ != nullptr) old_delta_ = std::move(delta_);
  }

  // One that changes a few pages which were there before. False: it is not of that kind.
  bool small_checkpoint() {
    if (!buffers_[0].known || !buffers_[1].known || last_.empty()) return false;
    if (delta_ == nullptr) {
      std::vector<uint64_t> behind;
      for (const auto& [addr, what] : last_) {
        const auto old = before_last_.find(addr);
        if (old == before_last_.end() || old->second != what) behind.push_back(addr);
      }
      for (const auto& [addr, what] : before_last_) {
        if (!last_.count(addr)) return false;
      }
      recorder_.enter("session");
      auto opened = cr::store::DeltaWriter::open(dir(), durable_, buffers_, newest_,
                                                 std::move(behind), old_delta_.get());
      old_delta_.reset();
      cr_assert(opened.has_value());
      delta_ = std::move(*opened);
    }
    pages_ = last_;
    std::vector<uint8_t> data(6 * kPageSize);
    std::vector<cr::store::DeltaPage> pages;
    for (auto& [addr, what] : pages_) {
      if (pages.size() == 6 || what == 0 || !random_.one_in(8)) continue;
      what = 1 + random_.below(1000000);
      fill(&data[pages.size() * kPageSize], what);
      pages.push_back({addr, &data[pages.size() * kPageSize], false});
    }
    if (!delta_->fits(pages)) return false;
    cr_test::SyntheticImage made;
    describe(made.model);
    cr::format::SuperBlock super{};
    super.epoch = 1;
    super.sequence = sequence_ + 1;
    super.attempt = ++attempts_;
    super.session_id[0] = static_cast<uint8_t>(session_);
    Written& w = written_[attempts_];
    w.pages = pages_;
    std::erase_if(w.pages, [](const auto& p) { return p.second == 0; });
    recorder_.enter("small");
    recorder_.now.begun = attempts_;
    cr_assert(delta_->commit(made.model, pages, &super).has_value());
    w.super = super;
    recorder_.now.committed = attempts_;
    recorder_.enter("session");
    newest_ = 1 - newest_;
    sequence_++;
    before_last_ = std::move(last_);
    last_ = pages_;
    small_++;
    return true;
  }
  int small() const { return small_; }

 private:
  // Some more METADATA, of a length that changes.
  void describe(cr::store::Model& model) {
    model.extents.clear();
    model.checksums.clear();
    model.overlays.clear();
    model.segments.resize(1);
    model.segments[0].start = kStart;
    model.segments[0].end = kStart + most_pages_ * kPageSize;
    std::string blob(random_.below(12000), 'm');
    for (size_t i = 0; i < blob.size(); i += 700) blob[i] = static_cast<char>(random_.next());
    model.add_blob(blob.data(), blob.size());
  }

  std::vector<cr::format::Run> stage(bool same, std::string& staging) {
    std::vector<cr::format::Run> runs;
    for (const auto& [addr, what] : pages_) {
      const auto old = last_.find(addr);
      const bool is_same = same && old != last_.end() && old->second == what;
      const uint64_t at = is_same ? cr::format::kPagesSame : staging.size() / kPageSize;
      const bool joins = !runs.empty() &&
                         runs.back().addr + runs.back().pages * kPageSize == addr &&
                         (runs.back().staging_page == cr::format::kPagesSame) == is_same;
      if (joins) {
        runs.back().pages++;
      } else {
        runs.push_back({addr, 1, at});
      }
      if (is_same) continue;
      staging.resize(staging.size() + kPageSize);
      fill(reinterpret_cast<uint8_t*>(&staging[staging.size() - kPageSize]), what);
    }
    return runs;
  }

  Random random_;
  uint64_t most_pages_;
  std::string root_;
  Recorder recorder_;
  BufferIndex buffers_[2];
  bool durable_ = true;
  int newest_ = -1;
  uint64_t sequence_ = 0, attempts_ = 0, session_ = 1;
  Pages pages_, last_, before_last_;
  std::unique_ptr<cr::store::DeltaWriter> delta_, old_delta_;
  int small_ = 0;
  std::map<uint64_t, Written> written_;
};

// ------------------------------------------------------------------------------ verifying ------

// Why the image is not the checkpoint that it says it is; "" if it is.
std::string compare(const Story& story, const cr::format::ImageView& v) {
  const auto found = story.written().find(v.super.attempt);
  if (found == story.written().end()) return "is whole and was never committed";
  const Written& w = found->second;
  if (v.super.sequence != w.super.sequence || v.super.metadata_xxh3 != w.super.metadata_xxh3 ||
      memcmp(v.super.session_id, w.super.session_id, sizeof(v.super.session_id)) != 0) {
    return "has a superblock of another checkpoint";
  }
  uint64_t pages = 0;
  uint8_t page[kPageSize];
  for (const cr::format::ExtentRecord& e : v.extents) {
    if (e.slot == cr::format::kSlotZero) return "has an extent of zeros";
    for (uint64_t i = 0; i < e.pages; i++, pages++) {
      const auto p = w.pages.find(e.addr + i * kPageSize);
      if (p == w.pages.end()) return "has a page too many";
      fill(page, p->second);
      if (memcmp(v.slot(e.slot + i), page, kPageSize) != 0) return "has a wrong page";
    }
  }
  return pages == w.pages.size() ? "" : "lacks a page";
}

// What the directory holds, as restoring sees it.
struct Found {
  std::string wrong;  // "": nothing
  uint64_t chosen = 0;
  std::set<uint64_t> whole;
};

Found look_at(const Story& story, const std::string& dir) {
  Found f;
  for (int i = 0; i < 2; i++) {
    const cr::store::BufferState b = cr::store::load_buffer(dir, i);
    if (!b.exists || b.error.code == cr::Errc::kNotWhole) continue;
    std::string text;
    if (cr::agent::verify_buffer(dir, i, b, &text) != cr::agent::Verdict::kRight) {
      f.wrong = text;
      return f;
    }
    const std::string why = compare(story, b.image->view);
    if (!why.empty()) {
      f.wrong = b.image->path + " " + why;
      return f;
    }
    f.whole.insert(b.image->view.super.attempt);
  }
  std::unique_ptr<cr::store::LoadedImage> image;
  const cr::agent::Trouble bad = cr::agent::choose_image(dir, 0, &image);
  if (bad.bad() && bad.error.code != cr::Errc::kNotWhole) f.wrong = bad.text;
  if (image) f.chosen = image->view.super.attempt;
  return f;
}

std::string judge(const Story& story, const std::string& dir, const Expectation& e) {
  const Found here = look_at(story, dir);
  if (!here.wrong.empty()) return here.wrong;
  const auto name = [](uint64_t attempt) {
    return attempt == 0 ? "nothing" : "attempt " + std::to_string(attempt);
  };
  const bool of_before = (e.moving && (here.chosen == e.kept || here.chosen == 0)) || e.discarding;
  if (here.chosen != e.committed && here.chosen != e.begun && !of_before) {
    return name(here.chosen) + " is chosen, not " + name(e.committed) + " or " + name(e.begun);
  }
  std::set<uint64_t> kept = here.whole;
  std::string aside = dir + "/interrupted.1";
  for (int n = 2; access(aside.c_str(), F_OK) == 0; n++) {
    const Found moved = look_at(story, aside);
    if (!moved.wrong.empty()) return moved.wrong;
    kept.insert(moved.whole.begin(), moved.whole.end());
    aside = dir + "/interrupted." + std::to_string(n);
  }
  for (const uint64_t k : {e.kept, e.kept_older}) {
    if (k != 0 && !kept.count(k)) return name(k) + " of the earlier run is lost";
  }
  if (!e.finished_marker && access((dir + "/finished").c_str(), F_OK) == 0) {
    return "the run counts as finished: the next one would overwrite it";
  }
  return "";
}

// ------------------------------------------------------------------------------ exploring ------

struct Outcome {
  size_t states = 0;
  std::string wrong;  // "": every state is right
};

Outcome explore(const Story& story, const std::vector<RecordedStep>& steps, Loss loss,
                const Disk::Effort& effort, size_t every = 1) {
  const std::string real = make_temporary("state");
  Outcome out;
  {
    Disk disk(loss, story.root());
    Shadow shadow(story.root(), real);
    Random random(seed() + 1);
    std::set<uint64_t> seen;
    for (size_t i = 0; i <= steps.size() && out.wrong.empty(); i++) {
      const Expectation e = i < steps.size() ? steps[i].expected : story.now();
      const auto check = [&](const Disk::State& state) {
        std::string key(reinterpret_cast<const char*>(&e), sizeof(e));
        for (const auto& [path, inode] : state.names) {
          const auto file = state.files.find(inode);
          const uint64_t sum = file == state.files.end()
                                   ? 0
                                   : cr::format::checksum(file->second.data(), file->second.size());
          key += path + std::to_string(sum) + " ";
        }
        if (!seen.insert(cr::format::checksum(key.data(), key.size())).second) return true;
        out.states++;
        shadow.become(state);
        const std::string wrong = judge(story, real + "/image.dir", e);
        if (wrong.empty()) return true;
        out.wrong = "before step " + std::to_string(i) + " (" +
                    (i < steps.size() ? steps[i].label : "the end") + "): " + wrong;
        return false;
      };
      if (e.promised && i % every == 0) (void)disk.visit(effort, random, check);
      if (i < steps.size()) disk.issue(steps[i]);
    }
  }
  std::filesystem::remove_all(real);
  return out;
}

void expect_right(const char* what, const Story& story, Loss loss, const Disk::Effort& effort,
                  size_t every = 1) {
  const Outcome out = explore(story, story.steps(), loss, effort, every);
  fprintf(stderr, "%s: %zu steps, %zu states, CR_TEST_SEED=%lu\n", what, story.steps().size(),
          out.states, static_cast<unsigned long>(seed()));
  cr_assert(out.wrong.empty(), "CR_TEST_SEED=%lu: %s", static_cast<unsigned long>(seed()),
            out.wrong.c_str());
}

constexpr uint64_t kPages = 140;
constexpr Disk::Effort kThorough{.all_subsets_below = 6, .singles = 24, .samples = 30};
constexpr Disk::Effort kQuick{.all_subsets_below = 4, .singles = 12, .samples = 6};

// Both buffers, in place, with growth that moves METADATA, freed pages, abandoned attempts and new
// agents; the first checkpoint makes directory and files.
void tell_many(Story& story, int checkpoints) {
  Random random(seed() + 2);
  story.make_directory();
  for (int i = 0; i < checkpoints; i++) {
    if (random.one_in(7)) story.forget();
    if (random.one_in(9)) story.pages().clear();
    for (uint64_t k = 1 + random.below(4); k > 0; k--) story.change();
    if (random.one_in(6)) story.checkpoint(/*abandon=*/true);
    story.checkpoint();
    if (random.one_in(2)) story.checkpoint();  // both buffers have the same pages
    for (uint64_t k = random.below(5); k > 0 && story.small_checkpoint(); k--) {
    }
  }
}

// A directory from the run before, whose program did not end by itself or did.
void tell_runs(Story& story) {
  cr::agent::SessionOptions options;
  options.dir = story.dir();
  std::string text;
  Expectation& now = story.recorder().now;
  const auto begin = [&]() {
    story.recorder().enter("session");
    auto session = cr::agent::Session::create(options, /*fresh=*/true, &text);
    cr_assert(session.has_value(), "%s %s", session.error().what, text.c_str());
    story.begin_run();
  };
  const auto run = [&](int checkpoints) {
    for (int i = 0; i < checkpoints; i++) {
      story.change();
      story.checkpoint();
    }
  };
  now.finished_marker = false;
  begin();
  run(3);
  now.kept = now.committed;
  now.kept_older = now.kept - 1;
  now.moving = true;
  begin();  // moves them aside
  now.committed = 0;
  run(2);
  story.checkpoint(/*abandon=*/true);
  now.finished_marker = true;
  cr_assert(cr::store::make_empty_file(story.dir() + "/finished").has_value());
  now.discarding = true;
  begin();  // throws them away
  now.committed = 0;
  story.change();
  story.checkpoint();
  now.finished_marker = false;
  run(2);
}

// Written without barriers, and gone on with by a session that promises more.
void tell_upgrade(Story& story) {
  story.recorder().now.promised = false;
  story.set_durable(false);
  story.make_directory();
  for (int i = 0; i < 5; i++) {
    if (i == 3) {
      story.forget();
      story.set_durable(true);
    }
    story.change();
    story.checkpoint();
  }
}

std::vector<RecordedStep> without(std::vector<RecordedStep> steps, const std::string& label) {
  std::erase_if(steps, [&](const RecordedStep& s) { return s.label == label; });
  return steps;
}

}  // namespace

Test(power_loss, leaves_the_last_checkpoint_or_the_one_being_written) {
  Story story(kPages);
  tell_many(story, 14);
  cr_assert_gt(story.small(), 3);
  expect_right("power loss", story, Loss::kPower, kThorough);
}

Test(power_loss, of_a_file_that_is_written_anew_since_most_of_it_was_free) {
  Story story(4700);
  story.make_directory();
  for (uint64_t i = 0; i < 4600; i++) story.pages()[kStart + i * kPageSize] = i + 1;
  story.checkpoint();
  story.checkpoint();
  for (uint64_t i = 60; i < 4600; i++) story.pages().erase(kStart + i * kPageSize);
  const size_t from = story.steps().size();
  for (int i = 0; i < 4; i++) {
    for (uint64_t k = 0; k < 20; k++) story.pages()[kStart + k * kPageSize] = 7000 + i;
    story.checkpoint();
  }
  uint64_t least = ~0ull;
  for (size_t i = from; i < story.steps().size(); i++) {
    const RecordedStep& s = story.steps()[i];
    if (s.kind == cr::store::StorageStep::kTruncate) least = std::min(least, s.off);
  }
  cr_assert_lt(least, 100 * kPageSize, "it was to be written anew");
  expect_right("written anew", story, Loss::kPower, {4, 6, 4});
}

Test(power_loss, between_runs_in_one_directory) {
  Story story(40);
  tell_runs(story);
  expect_right("runs", story, Loss::kPower, kThorough);
}

Test(power_loss, after_a_session_that_did_not_care) {
  Story story(40);
  tell_upgrade(story);
  expect_right("upgrade", story, Loss::kPower, kQuick);
}

// --durable=crash: what the kernel was given stays; writes that were under way may be missing.
Test(power_loss, writer_killed) {
  Story story(kPages);
  story.set_durable(false);
  tell_many(story, 14);
  expect_right("writer killed", story, Loss::kWriter, kThorough);
  for (const RecordedStep& s : story.steps()) {
    cr_assert_neq(s.kind, cr::store::StorageStep::kSync, "--durable=crash does not wait for disks");
    cr_assert_neq(s.kind, cr::store::StorageStep::kSyncDirectory);
  }
  Story runs(40);
  tell_runs(runs);  // barriers included: of no use here, and they do no harm
  expect_right("runs, writer killed", runs, Loss::kWriter, kQuick);
}

// The proof that the tests above can fail.
Test(power_loss, every_barrier_is_needed) {
  Story many(60), runs(40), upgrade(40);
  std::set<std::string> barriers, found;
  const auto try_all = [&](Story& story) {
    expect_right("with all barriers", story, Loss::kPower, kQuick);
    std::set<std::string> labels;
    for (const RecordedStep& s : story.steps()) {
      using cr::store::StorageStep;
      if (s.kind == StorageStep::kSync || s.kind == StorageStep::kSyncDirectory) {
        labels.insert(s.label);
      }
    }
    for (const std::string& label : labels) {
      barriers.insert(label);
      if (found.count(label)) continue;
      const Outcome out = explore(story, without(story.steps(), label), Loss::kPower, kQuick);
      if (out.wrong.empty()) continue;
      found.insert(label);
      fprintf(stderr, "without \"%s\": %s\n", label.c_str(), out.wrong.c_str());
    }
  };
  // One after the other: there is one observer.
  tell_many(many, 8);
  cr_assert_gt(many.small(), 2);
  try_all(many);
  tell_runs(runs);
  try_all(runs);
  tell_upgrade(upgrade);
  try_all(upgrade);
  for (const std::string& b : barriers)
    cr_assert(found.count(b), "nobody missed \"%s\"", b.c_str());
}

Test(power_loss, the_lock_must_come_last) {
  Story story(60);
  tell_many(story, 6);
  std::vector<RecordedStep> steps;
  size_t begun = 0;
  for (const RecordedStep& s : story.steps()) {
    using cr::store::StorageStep;
    if (s.kind == StorageStep::kWrite && s.off == 0 && s.label.starts_with("commit")) {
      steps.insert(steps.begin() + static_cast<ptrdiff_t>(begun), s);  // before its pages
      continue;
    }
    steps.push_back(s);
    if (s.label.starts_with("begin")) begun = steps.size();
  }
  cr_assert_not(explore(story, steps, Loss::kPower, kQuick).wrong.empty());
  cr_assert_not(explore(story, steps, Loss::kWriter, kQuick).wrong.empty());
}

Test(power_loss, the_writer_must_wait_before_it_commits) {
  Story story(60);
  story.set_durable(false);
  tell_many(story, 6);
  std::vector<RecordedStep> steps = story.steps();
  // Without the wait for the pages, METADATA and the lock may overtake them.
  std::erase_if(steps, [](const RecordedStep& s) {
    return s.kind == cr::store::StorageStep::kDrain && !s.label.starts_with("begin");
  });
  cr_assert_not(explore(story, steps, Loss::kWriter, kQuick).wrong.empty());
}
