// SPDX-License-Identifier: MIT
// file_put_back_test.cc - files go back to what they were, whatever was done to them: what a
// program's wrappers do is done here, on files of this test.
#include "agent/file_put_back.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>

#include "os/file_journal.h"

namespace {

using namespace cr::agent;
using namespace cr::format;
using cr::os::At;

using Seen = std::tuple<uint64_t, uint64_t, uint64_t, int64_t, uint32_t>;
std::set<Seen> g_seen;

bool was_seen(uint64_t generation, const cr::os::JournalKey& k, uint32_t level) {
  const auto it = g_seen.lower_bound({generation, k.dev, k.ino, k.made_ns, level});
  return it != g_seen.end() && std::get<0>(*it) == generation && std::get<1>(*it) == k.dev &&
         std::get<2>(*it) == k.ino && std::get<3>(*it) == k.made_ns;
}

void note_seen(uint64_t generation, const cr::os::JournalKey& k, uint32_t level) {
  g_seen.insert({generation, k.dev, k.ino, k.made_ns, level});
}

using Tree = std::map<std::string, std::string>;

// A program with its files, and the checkpoints and restores that it does not see.
class Program {
 public:
  Program() {
    char name[] = "/tmp/crtest-back-XXXXXX";
    cr_assert(mkdtemp(name) != nullptr);
    root_ = name;
    image_ = root_ + "/image";
    std::filesystem::create_directories(journal_dir(image_));
    head_.limit_bytes = 1 << 20;
    g_seen.clear();
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() { std::filesystem::remove_all(root_); }

  void checkpoint() { generation_++; }
  // generation: 0: the newest.
  void restore(uint64_t generation = 0) {
    if (generation != 0) generation_ = generation;
    JournalState state;
    Trouble bad = read_journal(
        image_, generation_, [](const std::string& p) { return p; }, &state);
    cr_assert(!bad.bad(), "%s", bad.text.c_str());
    PutBack done;
    bad = put_files_back(image_, state, false, &done);
    cr_assert(!bad.bad(), "%s", bad.text.c_str());
    for (const std::string& w : done.warnings) cr_expect(false, "%s", w.c_str());
    g_seen.clear();
  }
  void next_generation(uint64_t generation) { generation_ = generation; }
  std::vector<std::string> changed() {
    JournalState state;
    (void)read_journal(
        image_, generation_, [](const std::string& p) { return p; }, &state);
    PutBack done;
    (void)put_files_back(image_, state, true, &done);
    return done.changed;
  }

  void write(const std::string& name, const std::string& text) {
    before(name, kTouchContent);
    std::ofstream(path(name)) << text;
  }
  void make_directory(const std::string& name) {
    before(name, kTouchNew);
    cr_assert(mkdir(path(name).c_str(), 0755) == 0);
  }
  void remove(const std::string& name) {
    before(name, kTouchRemove);
    cr_assert(::remove(path(name).c_str()) == 0, "%s", name.c_str());
  }
  void link(const std::string& from, const std::string& to) {
    before(from, kTouchMove);
    before(to, kTouchNew);
    cr_assert(::link(path(from).c_str(), path(to).c_str()) == 0);
  }
  void change_mode(const std::string& name, mode_t mode) {
    before(name, kTouchAttributes);
    cr_assert(chmod(path(name).c_str(), mode) == 0);
  }
  void link_to(const std::string& text, const std::string& name) {
    before(name, kTouchNew);
    cr_assert(symlink(text.c_str(), path(name).c_str()) == 0);
  }
  // The steps of rename(): what is written down before, the call, what is written down after it.
  void begin_rename(const std::string& from, const std::string& to, bool exchange = false) {
    before(from, kTouchMove, to);
    before(to, exchange ? kTouchMove : kTouchReplace, from);
  }
  bool call_rename(const std::string& from, const std::string& to, bool exchange = false) {
    return renameat2(AT_FDCWD, path(from).c_str(), AT_FDCWD, path(to).c_str(),
                     exchange ? RENAME_EXCHANGE : 0) == 0;
  }
  void end_rename(const std::string& from, const std::string& to, bool exchange = false) {
    const std::string a = path(from), b = path(to);
    cr::os::journal_moved(journal(), *scratch_, generation_, {AT_FDCWD, a.c_str()},
                          {AT_FDCWD, b.c_str()}, exchange);
  }
  bool rename(const std::string& from, const std::string& to, bool exchange = false) {
    begin_rename(from, to, exchange);
    const bool done = call_rename(from, to, exchange);
    if (done) end_rename(from, to, exchange);
    return done;
  }

  std::string path(const std::string& name) const { return root_ + "/" + name; }
  // What there is, by name: "file's content", "/" or "> text of a link".
  Tree tree() const {
    Tree t;
    for (const auto& e : std::filesystem::recursive_directory_iterator(root_)) {
      const std::string name = e.path().string().substr(root_.size() + 1);
      if (name.starts_with("image")) continue;
      std::stringstream text;
      if (e.is_symlink()) {
        text << "> " << std::filesystem::read_symlink(e.path()).string();
      } else if (e.is_directory()) {
        text << "/";
      } else {
        text << std::ifstream(e.path()).rdbuf();
      }
      t[name] = text.str();
    }
    return t;
  }

 private:
  cr::os::Journal journal() { return {image_.c_str(), &head_, nullptr, was_seen, note_seen}; }
  void before(const std::string& name, FileTouch touch, const std::string& to = "") {
    const std::string a = path(name), b = path(to);
    const At target{AT_FDCWD, b.c_str()};
    (void)cr::os::journal_before(journal(), *scratch_, generation_, {AT_FDCWD, a.c_str()}, touch,
                                 touch == kTouchContent, &target);
  }

  std::string root_, image_;
  uint64_t generation_ = 0;
  FilesHead head_{};
  std::unique_ptr<cr::os::JournalScratch> scratch_ = std::make_unique<cr::os::JournalScratch>();
};

std::string words_of(const Tree& t) {
  std::string text;
  for (const auto& [name, what] : t) text += " " + name + ": " + what + ";";
  return text;
}

void expect_tree(const Program& p, const Tree& expected) {
  const Tree now = p.tree();
  cr_expect(now == expected, "expected%s\n     got%s", words_of(expected).c_str(),
            words_of(now).c_str());
}

// Three lives from the same checkpoint: each finds the same files.
template <typename Change>
void expect_back(Program& p, Change change) {
  const Tree then = p.tree();
  p.checkpoint();
  for (int life = 0; life < 3; life++) {
    change();
    p.restore();
    expect_tree(p, then);
    p.restore();
    expect_tree(p, then);
  }
}

void make(Program& p, const std::string& directory) {
  p.make_directory(directory);
  p.write(directory + "/f", "f of " + directory);
  p.write(directory + "/g", "g of " + directory);
}

}  // namespace

Test(file_put_back, a_rename_of_a_directory_that_fails_changes_nothing) {
  Program p;
  make(p, "a");
  make(p, "b");
  expect_back(p, [&] {
    cr_assert(!p.rename("a", "b"));  // it is not empty
    p.write("b/f", "other");
    p.write("b/new", "new");
    p.remove("a/g");
  });
}

Test(file_put_back, one_that_succeeds_in_the_second_attempt) {
  Program p;
  make(p, "a");
  make(p, "b");
  expect_back(p, [&] {
    cr_assert(!p.rename("a", "b"));
    p.remove("b/f");
    p.remove("b/g");
    cr_assert(p.rename("a", "b"));
    p.write("b/f", "other");
    p.write("b/new", "new");
  });
}

Test(file_put_back, a_directory_takes_the_place_of_an_empty_one) {
  Program p;
  make(p, "a");
  p.make_directory("b");
  expect_back(p, [&] {
    cr_assert(p.rename("a", "b"));
    p.write("b/f", "other");
  });
}

Test(file_put_back, a_directory_is_put_aside_and_made_anew) {
  Program p;
  make(p, "d");
  expect_back(p, [&] {
    cr_assert(p.rename("d", "d.old"));
    p.make_directory("d");
    p.write("d/f", "another");
    p.write("d/new", "new");
    p.make_directory("d/below");
    p.write("d/below/it", "new");
  });
}

Test(file_put_back, one_that_was_written_to_before_it_is_put_aside) {
  Program p;
  make(p, "d");
  expect_back(p, [&] {
    p.write("d/f", "changed");
    p.write("d/new", "new");
    cr_assert(p.rename("d", "d.old"));
    p.make_directory("d");
    p.write("d/f", "another");
    p.write("d/new", "new again");
    p.write("d.old/g", "changed there");
    p.remove("d.old/f");
  });
}

Test(file_put_back, the_directory_that_was_put_aside_is_removed) {
  Program p;
  make(p, "d");
  expect_back(p, [&] {
    cr_assert(p.rename("d", "d.old"));
    p.make_directory("d");
    p.write("d/f", "another");
    p.remove("d.old/f");
    p.remove("d.old/g");
    p.remove("d.old");
  });
}

Test(file_put_back, files_of_the_old_one_go_into_the_new_one) {
  Program p;
  make(p, "d");
  p.write("outside", "1");
  expect_back(p, [&] {
    cr_assert(p.rename("d", "d.old"));
    p.make_directory("d");
    cr_assert(p.rename("d.old/f", "d/f"));
    cr_assert(p.rename("outside", "d/g"));
    p.write("d/g", "2");
    p.remove("d.old/g");
    p.remove("d.old");
  });
}

Test(file_put_back, rotation) {
  Program p;
  for (const char* name : {"b0", "b1", "b2"}) make(p, name);
  expect_back(p, [&] {
    for (int i = 0; i < 4; i++) {
      p.remove("b2/f");
      p.remove("b2/g");
      p.remove("b2");
      cr_assert(p.rename("b1", "b2"));
      cr_assert(p.rename("b0", "b1"));
      make(p, "b0");
      p.write("b1/f", "changed in b1");
      p.write("b2/f", "changed in b2");
    }
  });
}

Test(file_put_back, two_directories_change_places) {
  Program p;
  make(p, "a");
  make(p, "b");
  p.write("c", "a file");
  expect_back(p, [&] {
    cr_assert(p.rename("a", "b", /*exchange=*/true));
    p.write("a/f", "of a now");
    p.write("b/g", "of b now");
    p.write("b/new", "new");
    cr_assert(p.rename("c", "a", /*exchange=*/true));
    p.write("c/f", "of c now");
    p.write("a", "a file elsewhere");
    cr_assert(p.rename("b", "c", /*exchange=*/true));
    cr_assert(!p.rename("b", "nothing", /*exchange=*/true));
    p.write("b/g", "once more");
  });
}

Test(file_put_back, there_and_back_and_elsewhere) {
  Program p;
  make(p, "a");
  make(p, "a/below");
  expect_back(p, [&] {
    cr_assert(p.rename("a", "b"));
    cr_assert(p.rename("b", "a"));
    p.write("a/f", "changed");
    cr_assert(p.rename("a", "b"));
    cr_assert(p.rename("b/below", "other"));
    cr_assert(p.rename("b", "other/b"));
    p.write("other/b/g", "changed");
    p.write("other/f", "changed");
    make(p, "a");
    make(p, "a/below");
  });
}

Test(file_put_back, a_name_that_two_old_directories_had) {
  Program p;
  for (const char* name : {"b0", "b1"}) make(p, name);
  expect_back(p, [&] {
    cr_assert(p.rename("b1", "b2"));
    cr_assert(p.rename("b0", "b1"));
    cr_assert(p.rename("b1", "c"));
    p.write("c/f", "changed");
    p.write("b2/f", "changed");
  });
}

Test(file_put_back, the_directory_above_is_removed) {
  Program p;
  p.make_directory("above");
  make(p, "above/d");
  expect_back(p, [&] {
    cr_assert(p.rename("above/d", "d"));
    p.remove("above");
    p.write("d/f", "changed");
  });
  expect_back(p, [&] {
    cr_assert(p.rename("above", "moved"));
    cr_assert(p.rename("moved/d", "d"));
    p.remove("moved");
    p.write("d/f", "changed");
  });
}

Test(file_put_back, a_link_in_the_place_of_a_directory) {
  Program p;
  make(p, "d");
  make(p, "e");
  expect_back(p, [&] {
    p.remove("d/f");
    p.remove("d/g");
    p.remove("d");
    p.link_to("e", "d");
  });
}

Test(file_put_back, a_directory_in_the_place_of_a_link) {
  Program p;
  make(p, "e");
  p.link_to("e", "d");
  expect_back(p, [&] {
    p.remove("d");
    make(p, "d");
    for (const char* name : {"d/f", "d/g", "d"}) p.remove(name);
    p.link_to("e", "d");
  });
}

Test(file_put_back, a_file_in_the_place_of_a_directory) {
  Program p;
  make(p, "d");
  p.write("old", "an old file");
  expect_back(p, [&] {
    p.remove("d/f");
    p.remove("d/g");
    p.remove("d");
    cr_assert(p.rename("old", "d"));
  });
}

Test(file_put_back, a_directory_in_the_place_of_a_file) {
  Program p;
  p.write("file", "text");
  p.link_to("file", "link");
  expect_back(p, [&] {
    p.remove("file");
    p.remove("link");
    make(p, "file");
    make(p, "link");
  });
}

Test(file_put_back, killed_between_the_move_and_its_record) {
  Program p;
  make(p, "a");
  make(p, "b");
  p.make_directory("empty");
  expect_back(p, [&] {
    p.begin_rename("a", "empty");
    cr_assert(p.call_rename("a", "empty"));
  });
  expect_back(p, [&] {
    p.begin_rename("a", "b", true);
    cr_assert(p.call_rename("a", "b", true));
  });
  expect_back(p, [&] { p.begin_rename("a", "b"); });
  expect_back(p, [&] { p.begin_rename("a", "c"); });
}

// The agent writes down at the stop what a thread is about to do; what it did is written down in
// the generation before.
Test(file_put_back, a_checkpoint_in_the_middle_of_a_move) {
  Program p;
  make(p, "d");
  const Tree then = p.tree();
  p.checkpoint();
  for (int life = 0; life < 3; life++) {
    const uint64_t second = 2 + life;
    p.begin_rename("d", "e");
    p.next_generation(second);
    p.begin_rename("d", "e");
    cr_assert(p.call_rename("d", "e"));
    p.next_generation(1);
    p.end_rename("d", "e");
    p.next_generation(second);
    p.write("e/f", "changed");
    make(p, "d");
    const Tree last = p.tree();
    p.restore(second);
    expect_tree(p, then);
    cr_assert(p.rename("d", "other"));
    p.write("other/g", "changed");
    make(p, "d");
    p.restore(1);
    expect_tree(p, then);
  }
}

Test(file_put_back, a_checkpoint_in_the_middle_of_a_move_of_what_is_removed_later) {
  Program p;
  make(p, "d");
  expect_back(p, [&] {
    p.begin_rename("d", "e");
    cr_assert(p.call_rename("d", "e"));
    for (const char* name : {"e/f", "e/g", "e"}) p.remove(name);
    make(p, "d");
  });
}

Test(file_put_back, lives_of_an_older_checkpoint) {
  Program p;
  make(p, "d");
  const Tree first = p.tree();
  p.checkpoint();
  cr_assert(p.rename("d", "e"));
  p.write("e/f", "1");
  const Tree second = p.tree();
  p.checkpoint();
  p.write("e/new", "2");
  cr_assert(p.rename("e", "g"));
  make(p, "e");
  p.restore(2);
  expect_tree(p, second);
  cr_assert(p.rename("e", "h"));
  p.write("h/g", "3");
  make(p, "e");
  p.restore(1);
  expect_tree(p, first);
  cr_assert(p.rename("d", "x"));
  make(p, "d");
  make(p, "e");
  p.restore(1);
  expect_tree(p, first);
  p.write("d/f", "4");
  cr_assert(p.rename("d", "e"));
  const Tree third = p.tree();
  p.next_generation(3);
  p.write("e/f", "5");
  cr_assert(p.rename("e", "d"));
  p.restore(3);
  expect_tree(p, third);
  p.restore(1);
  expect_tree(p, first);
}

// It is broken off at any moment, and done again.
Test(file_put_back, a_directory_that_is_back_already) {
  Program p;
  for (const char* name : {"b0", "b1"}) make(p, name);
  const Tree then = p.tree();
  p.checkpoint();
  for (int steps = 0; steps <= 4; steps++) {
    cr_assert(p.rename("b1", "b2"));
    cr_assert(p.rename("b0", "b1"));
    cr_assert(p.rename("b1", "c"));
    p.make_directory("b1");
    if (steps > 0) cr_assert(p.call_rename("b1", "b1.cr-new-1." + std::to_string(2)));
    if (steps > 1) cr_assert(p.call_rename("c", "b1"));
    if (steps > 2) cr_assert(p.call_rename("b1", "b0"));
    if (steps > 3) cr_assert(p.call_rename("b2", "b1"));
    p.restore();
    expect_tree(p, then);
  }
}

Test(file_put_back, a_look_says_what_has_changed) {
  Program p;
  make(p, "a");
  p.checkpoint();
  cr_assert(p.rename("a", "b"));
  cr_expect(!p.changed().empty());
  cr_assert(p.rename("b", "a"));
  cr_expect(p.changed().empty());
  make(p, "n");
  cr_assert(p.rename("n", "m"));
  for (const char* name : {"m/f", "m/g", "m"}) p.remove(name);
  cr_expect(p.changed().empty());
}

Test(file_put_back, what_is_written_by_a_new_name) {
  Program p;
  p.write("p", "before");
  p.write("q", "before too");
  expect_back(p, [&] {
    p.link("p", "other");
    p.write("other", "after");
    p.link("q", "third");
    p.remove("q");
    p.write("third", "after too");
  });
  p.checkpoint();
  p.link("p", "other");
  p.change_mode("other", 0600);
  p.restore();
  struct stat st {};
  cr_expect(stat(p.path("p").c_str(), &st) == 0);
  cr_expect_eq(st.st_mode & 07777, 0644);
}
