// SPDX-License-Identifier: MIT
// part_power_loss_test.cc - power failures, and the death of the writer, at every step of taking in
// many parts: in whatever state they may leave the store, the part whose commit had returned, or
// the one being written, is the newest whole one, all its rows are good, and nothing looks damaged.
// Invariant under test: that, and that each barrier is needed, as in power_loss_test.cc.
// Context: N. CR_TEST_SEED=n gives other choices; the default is always the same.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "format/checksum.h"
#include "node/part_store.h"
#include "tests/unit/store/disk_model.h"

namespace {

using cr::Errc;
using cr::kPageSize;
using cr::format::Triple;
using cr::node::PartReceiver;
using cr::node::PartStore;
using cr::store::StorageStep;
using cr_test::Disk;
using cr_test::Expectation;
using cr_test::Loss;
using cr_test::Random;
using cr_test::RecordedStep;
using cr_test::Recorder;
using cr_test::Shadow;
using Rows = std::vector<uint64_t>;  // what each is filled with; 0: zeros

constexpr char kSession[] = "/store/sessions/000000000000000000000000000000aa";

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

// Parts taken in as a holder takes them in, and what each of them must hold.
class Story {
 public:
  explicit Story(uint64_t most_rows)
      : random_(seed()), most_rows_(most_rows), root_(make_temporary("part")) {}
  ~Story() { std::filesystem::remove_all(root_); }

  Recorder& recorder() { return recorder_; }
  const std::vector<RecordedStep>& steps() const { return recorder_.steps; }
  const Expectation& now() const { return recorder_.now; }
  const std::string& root() const { return root_; }
  const std::map<uint64_t, Rows>& written() const { return written_; }
  Rows& rows() { return rows_; }

  // A new process.
  void open(bool durable) {
    recorder_.enter("open");
    std::string text;
    auto store = PartStore::open(root_ + "/store", durable, &text);
    cr_assert(store.has_value(), "%s", text.c_str());
    store_ = std::move(*store);
  }

  void change() {
    const uint64_t how = random_.below(8);
    if (how == 0) rows_.resize(random_.below(most_rows_), 0);
    if (how < 3 && rows_.size() < most_rows_) rows_.resize(rows_.size() + 1 + random_.below(9), 0);
    if (rows_.empty()) rows_.resize(3);
    const uint64_t begin = random_.below(rows_.size());
    const uint64_t end = std::min<uint64_t>(rows_.size(), begin + 1 + random_.below(12));
    for (uint64_t i = begin; i < end; i++) {
      rows_[i] = how == 4 || random_.one_in(6) ? 0 : 1 + random_.below(1000000);
    }
  }

  void take_in(bool abandon = false) {
    const bool full = cr::node::is_none(newest_) || random_.one_in(6);
    cr::format::PartOffer offer{};
    offer.session_id[15] = 0xaa;
    offer.triple = {1, attempts_ + 1, attempts_ + 1};
    if (!full) offer.base = newest_;
    offer.keep = newest_;
    for (const auto& e : store_->list()) {
      if (cr::node::operator==(e.triple, newest_)) {
        offer.base_layout = offer.keep_layout = e.layout;
      }
    }
    offer.kind = cr::format::kProtectReplica;
    offer.data_parts = offer.parity_parts = 1;
    offer.rows = rows_.size();
    recorder_.now.begun = ++attempts_;
    recorder_.enter("begin");
    auto receiver = PartReceiver::begin(*store_, offer);
    cr_assert(receiver.has_value(), "%s", receiver.error().what);
    cr_assert_eq((*receiver)->has_base(), !full);
    recorder_.now.promised = recorder_.now.promised || store_->durable();
    recorder_.enter("rows");
    send(**receiver, full ? Rows() : written_[newest_.attempt]);
    if (abandon) {
      recorder_.now.begun = recorder_.now.committed;
      return;
    }
    recorder_.enter("commit");
    describe(**receiver);
    cr::format::PartCommit commit{};
    commit.triple = offer.triple;
    commit.slots = commit.rows = rows_.size();
    commit.description_bytes = description_bytes_;
    commit.sent_rows = (*receiver)->rows_taken();
    written_[attempts_] = rows_;
    const auto done = (*receiver)->commit(commit);
    cr_assert(done.has_value(), "%s", done.error().what);
    recorder_.now.committed = attempts_;
    newest_ = offer.triple;
    recorder_.enter("between");
  }

 private:
  void send(PartReceiver& receiver, const Rows& base) {
    std::vector<uint8_t> chunk(cr::format::kChunkBytes);
    uint64_t at = cr::format::kChunkPagesOff;
    uint32_t count = 0;
    const auto flush = [&] {
      const auto added = receiver.add_rows({chunk.data(), at}, count);
      cr_assert(added.has_value(), "%s", added.error().what);
      const auto finished = receiver.finish_rows();
      cr_assert(finished.has_value(), "%s", finished.error().what);
      at = cr::format::kChunkPagesOff;
      count = 0;
    };
    for (size_t i = 0; i < rows_.size(); i++) {
      if (rows_[i] == (i < base.size() ? base[i] : 0)) continue;
      cr::format::RowRecord r{i, 0};
      if (rows_[i] != 0) {
        fill(chunk.data() + at, rows_[i]);
        r.check = cr::format::row_check(chunk.data() + at);
        at += kPageSize;
      }
      memcpy(chunk.data() + count * sizeof(r), &r, sizeof(r));
      if (++count == 7) flush();
    }
    flush();
  }

  // Of a length that changes.
  void describe(PartReceiver& receiver) {
    const cr::format::DescriptionHeader head{1, 2, random_.below(rows_.size() + 1)};
    cr::format::VolumeRecord volume{};
    volume.kind = cr::format::kVolumePages;
    std::vector<uint8_t> d;
    const auto add = [&d](const auto& what) {
      const auto* at = reinterpret_cast<const uint8_t*>(&what);
      d.insert(d.end(), at, at + sizeof(what));
    };
    add(head);
    add(volume);
    for (uint64_t i = 0; i < head.extents; i++) {
      add(cr::format::VolumeExtent{0, 0, i * 2 + random_.below(2), 1, i});
    }
    for (int i = 0; i < 2; i++) add(cr::format::HolderRecord{"node"});
    description_bytes_ = d.size();
    cr_assert(receiver.add_description(0, d).has_value());
  }

  Random random_;
  uint64_t most_rows_;
  std::string root_;
  Recorder recorder_;
  std::unique_ptr<PartStore> store_;
  Rows rows_;
  Triple newest_{};
  uint64_t attempts_ = 0, description_bytes_ = 0;
  std::map<uint64_t, Rows> written_;
};

// ------------------------------------------------------------------------------ verifying ------

// Why the part is not the one that it says it is; "" if it is.
std::string compare(const Story& story, const cr::store::LoadedPart& part) {
  const cr::format::PartView& v = part.view;
  const auto found = story.written().find(v.header.triple.attempt);
  if (found == story.written().end()) return "is whole and was never committed";
  const Rows& rows = found->second;
  if (v.header.rows != rows.size()) return "has another number of rows";
  uint8_t page[kPageSize], is[kPageSize];
  for (uint64_t i = 0, bad = 0; i < rows.size(); i++) {
    if (!cr::store::read_rows(part, i, 1, is, &bad)) {
      return "has a damaged row " + std::to_string(i);
    }
    fill(page, rows[i]);
    if (memcmp(is, page, kPageSize) != 0) return "has a wrong row " + std::to_string(i);
  }
  return "";
}

std::string judge(const Story& story, const std::string& root, const Expectation& e) {
  uint64_t newest = 0;
  for (int b = 0; b < 2; b++) {
    const std::string path = cr::store::part_path(root + kSession, 0, b);
    const cr::store::PartState s = cr::store::load_part(path);
    if (!s.part) {
      if (s.error.code != Errc::kNotWhole) return path + " looks damaged: " + s.error.what;
      continue;
    }
    const std::string why = compare(story, *s.part);
    if (!why.empty()) return path + " " + why;
    newest = std::max(newest, s.part->view.header.triple.attempt);
  }
  if (newest == e.committed || newest == e.begun) return "";
  return "attempt " + std::to_string(newest) + " is the newest, not " +
         std::to_string(e.committed) + " or " + std::to_string(e.begun);
}

// ------------------------------------------------------------------------------ exploring ------

struct Outcome {
  size_t states = 0;
  std::string wrong;  // "": every state is right
};

Outcome explore(const Story& story, const std::vector<RecordedStep>& steps, Loss loss,
                const Disk::Effort& effort) {
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
        const std::string wrong = judge(story, real, e);
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

void expect_right(const char* what, const Story& story, Loss loss, const Disk::Effort& effort) {
  const Outcome out = explore(story, story.steps(), loss, effort);
  fprintf(stderr, "%s: %zu steps, %zu states, CR_TEST_SEED=%lu\n", what, story.steps().size(),
          out.states, static_cast<unsigned long>(seed()));
  cr_assert(out.wrong.empty(), "CR_TEST_SEED=%lu: %s", static_cast<unsigned long>(seed()),
            out.wrong.c_str());
}

constexpr Disk::Effort kThorough{.all_subsets_below = 6, .singles = 24, .samples = 24};
constexpr Disk::Effort kQuick{.all_subsets_below = 4, .singles = 12, .samples = 6};

void tell_many(Story& story, int parts, bool durable) {
  Random random(seed() + 2);
  story.open(durable);
  for (int i = 0; i < parts; i++) {
    if (random.one_in(6)) story.open(durable);
    for (uint64_t k = 1 + random.below(4); k > 0; k--) story.change();
    if (random.one_in(4)) story.take_in(/*abandon=*/true);
    story.take_in();
  }
}

// Written without barriers, and gone on with by a process that promises more.
void tell_upgrade(Story& story, int parts_before) {
  story.recorder().now.promised = false;
  story.open(false);
  for (int i = 0; i < parts_before + 2; i++) {
    if (i == parts_before) story.open(true);
    story.change();
    story.take_in();
  }
}

std::vector<RecordedStep> without(std::vector<RecordedStep> steps, const std::string& label) {
  std::erase_if(steps, [&](const RecordedStep& s) { return s.label == label; });
  return steps;
}

}  // namespace

Test(part_power_loss, leaves_the_last_part_or_the_one_being_written) {
  Story story(60);
  tell_many(story, 16, true);
  expect_right("power loss", story, Loss::kPower, kThorough);
}

Test(part_power_loss, after_a_process_that_did_not_care) {
  Story story(20);
  tell_upgrade(story, 3);
  expect_right("upgrade", story, Loss::kPower, kThorough);
}

Test(part_power_loss, writer_killed) {
  Story story(60);
  tell_many(story, 16, false);
  expect_right("writer killed", story, Loss::kWriter, kThorough);
  for (const RecordedStep& s : story.steps()) {
    cr_assert(s.kind != StorageStep::kSync && s.kind != StorageStep::kSyncDirectory,
              "who did not ask for it does not wait for disks");
  }
}

// The proof that the tests above can fail.
Test(part_power_loss, every_barrier_is_needed) {
  Story many(30), upgrade(20), other_upgrade(20);
  std::set<std::string> barriers, found;
  const auto try_all = [&](Story& story) {
    expect_right("with all barriers", story, Loss::kPower, kQuick);
    std::set<std::string> labels;
    for (const RecordedStep& s : story.steps()) {
      if (s.kind == StorageStep::kSync || s.kind == StorageStep::kSyncDirectory) {
        labels.insert(s.label);
      }
    }
    for (const std::string& label : labels) {
      barriers.insert(label);
      if (found.contains(label)) continue;
      const Outcome out = explore(story, without(story.steps(), label), Loss::kPower, kQuick);
      if (out.wrong.empty()) continue;
      found.insert(label);
      fprintf(stderr, "without \"%s\": %s\n", label.c_str(), out.wrong.c_str());
    }
  };
  // One after the other: there is one observer.
  tell_many(many, 8, true);
  try_all(many);
  tell_upgrade(upgrade, 3);
  try_all(upgrade);
  tell_upgrade(other_upgrade, 4);
  try_all(other_upgrade);
  for (const std::string& b : barriers) {
    cr_expect(found.contains(b), "nobody missed \"%s\"", b.c_str());
  }
}

Test(part_power_loss, the_lock_must_come_last) {
  Story story(30);
  tell_many(story, 6, true);
  std::vector<RecordedStep> steps;
  size_t begun = 0;
  for (const RecordedStep& s : story.steps()) {
    if (s.kind == StorageStep::kWrite && s.off == 0 && s.label.starts_with("commit")) {
      steps.insert(steps.begin() + static_cast<ptrdiff_t>(begun), s);  // before its rows
      continue;
    }
    steps.push_back(s);
    if (s.label.starts_with("begin")) begun = steps.size();
  }
  cr_assert_not(explore(story, steps, Loss::kPower, kQuick).wrong.empty());
  cr_assert_not(explore(story, steps, Loss::kWriter, kQuick).wrong.empty());
}

Test(part_power_loss, the_writer_must_wait_before_it_commits) {
  Story story(30);
  tell_many(story, 6, false);
  std::vector<RecordedStep> steps = story.steps();
  std::erase_if(steps, [](const RecordedStep& s) {
    return s.kind == StorageStep::kDrain && !s.label.starts_with("begin");
  });
  cr_assert_not(explore(story, steps, Loss::kWriter, kQuick).wrong.empty());
}
