// SPDX-License-Identifier: MIT
// written_session.h - an image directory with checkpoints, as a session's agent writes it, for
// tests of what reads it.
// Invariant: a page is known by a number, from which its bytes are made.
// Context: N.
#pragma once

#include <criterion/criterion.h>
#include <stdlib.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "store/buffer.h"
#include "tests/unit/format/synthetic_image.h"

namespace cr_test {

using Pages = std::map<uint64_t, uint64_t>;  // address -> what it is filled with; 0: zeros

inline constexpr uint64_t kStart = 0x100000, kPages = 400;

inline std::string content(uint64_t what) {
  std::string page(cr::kPageSize, '\0');
  for (size_t i = 0; i < cr::kPageSize && what != 0; i += 8) {
    const uint64_t word = what * (i + 1);
    memcpy(&page[i], &word, 8);
  }
  return page;
}

// An image directory, with those of members.
class WrittenSession {
 public:
  WrittenSession() {
    char name[] = "/tmp/cr-session-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    dir_ = name;
  }
  ~WrittenSession() { std::filesystem::remove_all(dir_); }
  const std::string& dir() const { return dir_; }
  std::string member_dir(unsigned member) const {
    return member == 0 ? dir_ : dir_ + "/members/" + std::to_string(member);
  }
  std::string path(int buffer, unsigned member = 0) const {
    return cr::store::buffer_path(member_dir(member), buffer);
  }

  // A checkpoint of these processes, the first one's image last.
  void write(const std::vector<Pages>& processes, uint64_t sequence) {
    for (size_t m = processes.size(); m-- > 0;) {
      write_one(processes[m], sequence, static_cast<unsigned>(m), processes.size());
    }
  }

  void write_one(const Pages& pages, uint64_t sequence, unsigned member, size_t processes) {
    std::filesystem::create_directories(member_dir(member));
    SyntheticImage made;
    cr::store::Model& model = made.model;
    describe(model, sequence, member, processes);
    std::string staging;
    std::vector<cr::format::Run> runs;
    for (const auto& [addr, what] : pages) {
      runs.push_back({addr, 1, staging.size() / cr::kPageSize});
      staging.append(content(what));
    }
    const int buffer = static_cast<int>(sequence % 2);
    auto& index = indexes_[{member, buffer}];
    auto writer = cr::store::BufferWriter::open(member_dir(member), buffer, false, index);
    cr_assert(writer.has_value());
    made.super.epoch = epoch;
    made.super.sequence = made.super.attempt = sequence;
    made.super.session_id[3] = number;
    made.super.realtime_ns = realtime_ns;
    cr_assert((*writer)->begin(made.super).has_value());
    auto never = [](void*, uint64_t) { return false; };
    cr_assert(
        (*writer)
            ->append(model, reinterpret_cast<const uint8_t*>(staging.data()), runs, never, nullptr)
            .has_value());
    cr_assert((*writer)->commit(model, &made.super).has_value());
  }
  void forget() { indexes_.clear(); }

  uint64_t epoch = 1;
  uint8_t number = 5;        // of its session_id
  uint64_t realtime_ns = 0;  // of the program's stop

 private:
  // METADATA of a length that changes.
  static void describe(cr::store::Model& model, uint64_t sequence, unsigned member,
                       size_t processes) {
    model.extents.clear();
    model.checksums.clear();
    model.overlays.clear();
    model.segments.resize(1);
    model.segments[0].start = kStart;
    model.segments[0].end = kStart + kPages * cr::kPageSize;
    const std::string blob(sequence * 1237 % 30000, static_cast<char>('a' + sequence % 26));
    model.add_blob(blob.data(), blob.size());
    if (processes < 2) return;
    for (unsigned m = 0; m < processes; m++) {
      if (member != 0 && member != m) continue;
      cr::format::TreeRecord t{};
      t.pid = static_cast<int32_t>(100 + m);
      t.member = m;
      t.terminal = -1;
      model.tree.push_back(t);
    }
    if (member != 0) return;
    cr::format::TreeRecord dead{};
    dead.pid = 200;
    dead.member = cr::format::kTreeNoImage;
    dead.flags = cr::format::kTreeZombie;
    model.tree.push_back(dead);
  }

  std::string dir_;
  std::map<std::pair<unsigned, int>, cr::store::BufferIndex> indexes_;
};

inline Pages full(uint64_t what) {
  Pages pages;
  for (uint64_t i = 0; i < kPages; i++) pages[kStart + i * cr::kPageSize] = what + i;
  return pages;
}

}  // namespace cr_test
