// SPDX-License-Identifier: MIT
// file_journal_test.cc - what the journal of changed files says of a checkpoint: see
// docs/format/files.md, "Generations".
#include "agent/file_journal.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "format/file_journal_reader.h"

namespace {

using namespace cr::agent;
using namespace cr::format;

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/crtest-journal-XXXXXX";
    cr_assert(mkdtemp(name) != nullptr);
    path_ = name;
    std::filesystem::create_directory(journal_dir(path_));
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { std::filesystem::remove_all(path_); }

  void add(FileChange c, const char* path, const char* target = "") const {
    char record[kMostChangeBytes + 8];
    const uint64_t n = build_change(c, path, target, reinterpret_cast<uint8_t*>(record));
    cr_assert(n > 0);
    std::ofstream log(journal_dir(path_) + "/log." + std::to_string(c.generation), std::ios::app);
    log.write(record, static_cast<std::streamsize>(n));
    cr_assert(log.good());
  }
  JournalState state_at(uint64_t generation) const {
    JournalState state;
    const Trouble bad = read_journal(
        path_, generation, [](const std::string& p) { return p; }, &state);
    cr_assert(!bad.bad(), "%s", bad.text.c_str());
    return state;
  }

 private:
  std::string path_;
};

FileChange file(uint64_t generation, uint64_t ino, uint64_t copy, uint32_t flags = 0) {
  FileChange c{};
  c.generation = generation;
  c.was = kWasRegular;
  c.copy_kind = copy != 0 ? kCopyContent : kCopyNone;
  c.copy = copy;
  c.ino = ino;
  c.flags = flags;
  return c;
}

uint64_t copy_of(const JournalState& state, uint64_t ino) {
  const auto it = state.content.find(id_of(file(0, ino, 0)));
  return it == state.content.end() ? 0 : it->second.record.copy;
}

}  // namespace

Test(file_journal, the_first_record_of_a_file_counts) {
  const Directory dir;
  dir.add(file(3, 10, 1), "/a");
  dir.add(file(3, 10, 2), "/a");
  dir.add(file(4, 10, 3), "/a");
  cr_assert_eq(copy_of(dir.state_at(3), 10), 1);
  cr_assert_eq(copy_of(dir.state_at(4), 10), 3);
}

// What is open may be written to through its descriptor, unseen, and removed, which is seen, before
// the checkpoint's own records are written.
Test(file_journal, what_was_open_comes_first_wherever_it_stands) {
  const Directory dir;
  dir.add(file(3, 10, 1), "/a");
  dir.add(file(3, 11, 2, kChangeOpen), "/b");
  dir.add(file(3, 10, 3, kChangeOpen), "/a");
  cr_assert_eq(copy_of(dir.state_at(3), 10), 3);
  cr_assert_eq(copy_of(dir.state_at(3), 11), 2);
}

Test(file_journal, what_was_open_lies_where_it_lay_before_a_directory_was_renamed) {
  const Directory dir;
  FileChange moved = file(3, 5, 0);
  moved.was = kWasDirectory;
  moved.flags = kChangeMoved;
  dir.add(moved, "/old", "/new");
  dir.add(file(3, 11, 2), "/new/later");
  dir.add(file(3, 10, 1, kChangeOpen), "/new/open");  // another directory, of that time
  const JournalState state = dir.state_at(3);
  cr_assert(state.paths.contains("/new/open"));
  cr_assert(state.paths.contains("/old/later"));
}

Test(file_journal, what_was_open_at_a_later_checkpoint_is_of_that_one) {
  const Directory dir;
  dir.add(file(4, 10, 9, kChangeOpen), "/a");
  dir.add(file(4, 10, 4), "/a");
  cr_assert_eq(copy_of(dir.state_at(3), 10), 4);
  cr_assert_eq(copy_of(dir.state_at(4), 10), 9);
}
