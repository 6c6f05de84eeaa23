// SPDX-License-Identifier: MIT
// file_journal_test.cc - the journal of changed files: docs/format/files.md says what the code has,
// and the reader takes what is right and nothing else.
#include <criterion/criterion.h>
#include <string.h>

#include "format/file_journal_reader.h"
#include "tests/unit/format/spec_document.h"

namespace {

using namespace cr::format;
using cr_test::Document;
using cr_test::Structs;
using Bytes = std::vector<uint8_t>;

constexpr char kDocument[] = "docs/format/files.md";

#define F CR_SPEC_FIELD
Structs structs_of_the_code() {
  Structs s;
  s["FileChange"] = {
      sizeof(FileChange),
      {F(FileChange, magic),    F(FileChange, bytes),      F(FileChange, generation),
       F(FileChange, was),      F(FileChange, copy_kind),  F(FileChange, copy),
       F(FileChange, dev),      F(FileChange, ino),        F(FileChange, made_ns),
       F(FileChange, mtime_ns), F(FileChange, file_bytes), F(FileChange, mode),
       F(FileChange, uid),      F(FileChange, gid),        F(FileChange, flags),
       F(FileChange, error),    F(FileChange, path_bytes), F(FileChange, target_bytes),
       F(FileChange, reserved), F(FileChange, checksum)}};
  return s;
}

#define V(name) \
  { #name, name }
std::map<std::string, uint64_t> constants_of_the_code() {
  return {V(kWasAbsent),   V(kWasRegular),    V(kWasSymlink),  V(kWasDirectory),
          V(kWasFifo),     V(kWasOther),      V(kCopyNone),    V(kCopyContent),
          V(kCopyLink),    V(kCopyTooLarge),  V(kCopyFailed),  V(kChangeOpen),
          V(kChangeMoved), V(kChangeSwapped), V(kChangeFound), V(kChangeBack)};
}

void add(Bytes& log, const char* path, const char* target, uint64_t generation = 7) {
  FileChange c{};
  c.generation = generation;
  c.was = kWasRegular;
  c.file_bytes = 42;
  Bytes record(kMostChangeBytes + 8);
  const uint64_t n = build_change(c, path, target, record.data());
  log.insert(log.end(), record.begin(), record.begin() + static_cast<long>(n));
}

std::vector<std::string> paths_in(const Bytes& log) {
  std::vector<std::string> paths;
  ChangeView v{};
  for (uint64_t at = 0; next_change(log.data(), log.size(), &at, &v);) {
    paths.push_back(std::string(v.path) + ">" + v.target);
  }
  return paths;
}

using Paths = std::vector<std::string>;

}  // namespace

Test(file_journal, document_has_the_structs_of_the_code) {
  const Document d(kDocument);
  const Structs code = structs_of_the_code();
  cr_assert_eq(d.structs.size(), code.size());
  for (const auto& [name, s] : code) {
    const auto it = d.structs.find(name);
    cr_assert(it != d.structs.end(), "%s", name.c_str());
    cr_expect_eq(it->second.bytes, s.bytes);
    cr_assert_eq(it->second.fields.size(), s.fields.size());
    for (size_t i = 0; i < s.fields.size(); i++) {
      cr_expect_eq(it->second.fields[i].name, s.fields[i].name, "%s", s.fields[i].name.c_str());
      cr_expect_eq(it->second.fields[i].off, s.fields[i].off, "%s", s.fields[i].name.c_str());
      cr_expect_eq(it->second.fields[i].bytes, s.fields[i].bytes, "%s", s.fields[i].name.c_str());
    }
  }
}

Test(file_journal, document_has_the_constants_of_the_code) {
  const Document d(kDocument);
  for (const auto& [name, value] : constants_of_the_code()) {
    const auto it = d.constants.find(name);
    cr_assert(it != d.constants.end(), "%s", name.c_str());
    cr_expect_eq(it->second, value, "%s", name.c_str());
  }
}

Test(file_journal, gives_records_in_order) {
  Bytes log;
  add(log, "/a", "");
  add(log, "/a/longer path", "target");
  add(log, "/b", "x");
  cr_expect(paths_in(log) == (Paths{"/a>", "/a/longer path>target", "/b>x"}));
}

Test(file_journal, passes_over_what_was_cut_off) {
  Bytes log;
  add(log, "/cut off", "");
  log.resize(log.size() - 5);
  add(log, "/whole", "");
  cr_expect(paths_in(log) == Paths{"/whole>"});
  Bytes end;
  add(end, "/whole", "");
  add(end, "/cut off", "");
  end.resize(end.size() - 1);
  cr_expect(paths_in(end) == Paths{"/whole>"});
}

Test(file_journal, no_changed_byte_is_taken) {
  Bytes log;
  add(log, "/path", "target");
  for (size_t i = 0; i < log.size(); i++) {
    Bytes changed = log;
    changed[i] ^= 1;
    cr_expect(paths_in(changed).empty(), "byte %zu", i);
  }
}

Test(file_journal, relative_and_long_paths_are_no_records) {
  Bytes log;
  add(log, "relative", "");
  cr_expect(paths_in(log).empty());
  Bytes record(kMostChangeBytes + 8);
  const std::string most(kJournalPathBytes - 1, '/'), more(kJournalPathBytes, '/');
  cr_expect_gt(build_change({}, most.c_str(), "", record.data()), 0);
  cr_expect_eq(build_change({}, more.c_str(), "", record.data()), 0);
  cr_expect_eq(build_change({}, "/a", more.c_str(), record.data()), 0);
}
