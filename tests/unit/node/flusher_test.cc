// SPDX-License-Identifier: MIT
// flusher_test.cc - checkpoints that are flushed while their session goes on, and read back.
// Invariant under test: a file with a final name is one whole checkpoint of the session, whatever
// the session, the writer and the file system did meanwhile; what is owed is flushed in the end.
// Context: N. CR_TEST_SEED=n repeats a run.
#include "node/flusher.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "tests/unit/node/written_session.h"
#include "tests/unit/nvheap/random.h"

namespace {

using cr::Errc;
using cr::kPageSize;
using cr::node::FlushedFile;
using cr::node::FlushedSession;
using cr::node::Flusher;
using cr::node::FlushFile;
using cr::node::FlushOptions;
using cr::node::SessionImage;
using cr::store::RateLimit;
using cr_test::full;
using cr_test::kPages;
using cr_test::kStart;
using cr_test::Pages;
using cr_test::Random;
using cr_test::WrittenSession;

constexpr uint64_t kSecond = 1'000'000'000;

// A session and the directory that it is flushed to.
struct Story {
  Story() {
    char name[] = "/tmp/cr-flush-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    dir = name;
    options.dir = dir;
    options.node = "here";
    options.durable = false;
  }
  ~Story() {
    (void)umount2(dir.c_str(), MNT_DETACH);
    std::filesystem::remove_all(dir);
  }

  // Three processes, so that a pass takes several steps.
  void write(uint64_t sequence) {
    written[sequence] = {full(sequence * 10000), full(sequence * 20000), full(7)};
    session.write(written[sequence], sequence);
  }
  FlushedSession identity() {
    auto image = SessionImage::open(session.dir());
    cr_assert(image.has_value(), "%s", image.error().what);
    return {cr::node::session_id_of((*image)->super().session_id),
            "job",
            session.dir(),
            {cr::store::Protection::Kind::kRs, 4, 2},
            getuid()};
  }
  std::unique_ptr<Flusher> flusher(std::shared_ptr<RateLimit> rate = nullptr) {
    std::string text;
    auto f = Flusher::make(
        identity(), options, std::move(rate),
        [this](const std::string& line) { log.push_back(line); }, &text);
    cr_assert(f.has_value(), "%s", text.c_str());
    return std::move(*f);
  }
  // Steps until nothing is left to be done by `until`.
  void run(Flusher& f, uint64_t until = 0) {
    for (int i = 0; i < 100000; i++) {
      if (f.step(now)) continue;
      const uint64_t next = f.next_ns();
      if (next == ~uint64_t{0} || next > std::max(until, now)) return;
      now = std::max(now, next);
    }
    cr_assert_fail("it does not come to an end");
  }
  void wake(Flusher& f, uint64_t until = 0) {
    f.wake();
    run(f, until);
  }
  std::string folder() { return cr::node::flush_directory(dir, "job", identity().id); }
  std::string temporary() { return folder() + "/here.new"; }
  std::set<uint64_t> sequences() {
    std::set<uint64_t> all;
    for (const FlushedFile& f : cr::node::list_flushed(dir, &bad)) all.insert(f.triple.sequence);
    return all;
  }
  void expect_right(const FlushedFile& f);

  WrittenSession session;
  std::string dir;
  FlushOptions options;
  std::map<uint64_t, std::vector<Pages>> written;
  std::vector<std::string> log, bad;
  uint64_t now = kSecond;
};

// What an image directory has, by process and address.
std::map<std::pair<uint32_t, uint64_t>, std::string> pages_of(const std::string& dir) {
  auto image = SessionImage::open(dir);
  cr_assert(image.has_value(), "%s", image.error().what);
  std::vector<cr::node::SeenMetadata> seen;
  cr::store::SlotMap map;
  cr::node::SlotContent slots;
  (*image)->place(seen, map, &slots);
  std::map<std::pair<uint32_t, uint64_t>, std::string> pages;
  for (const auto& e : map.extents()) {
    if ((*image)->volumes()[e.volume].kind != cr::format::kVolumePages) continue;
    for (uint64_t k = 0; k < e.pages; k++) {
      std::string page(kPageSize, '\0');
      auto* const at = reinterpret_cast<uint8_t*>(page.data());
      const uint64_t check = slots.checks[e.slot + k];
      cr_assert(check == 0 || *(*image)->read(slots.where[e.slot + k], check, at));
      pages[{e.volume / 3, (e.page + k) * kPageSize}] = page;
    }
  }
  return pages;
}

// The file makes an image directory with exactly the pages that were written.
void Story::expect_right(const FlushedFile& f) {
  std::string text;
  cr_assert(cr::node::verify_flush(f.path, &text).has_value(), "%s", text.c_str());
  auto file = FlushFile::open(f.path);
  cr_assert(file.has_value());
  const std::string made = dir + "/made";
  const auto bytes = make_image_of(**file, made, false, {}, &text);
  cr_assert(bytes.has_value(), "%s", text.c_str());
  const auto pages = pages_of(made);
  std::filesystem::remove_all(made);
  size_t expected = 0;
  const std::vector<Pages>& processes = written.at(f.triple.sequence);
  for (uint32_t m = 0; m < processes.size(); m++) {
    for (const auto& [addr, what] : processes[m]) {
      const auto page = pages.find({m, addr});
      const bool right =
          what == 0 || (page != pages.end() && page->second == cr_test::content(what));
      cr_assert(right, "%s: process %u, page %lx", f.path.c_str(), m, addr);
      expected += what != 0 ? 1 : 0;
    }
  }
  cr_assert_leq(expected, pages.size());
}

void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A small file system at `dir`, that goes with this process. Skips the test where that cannot be.
void mount_small(const std::string& dir, const char* size) {
  const uid_t uid = getuid();
  if (unshare(CLONE_NEWNS | (uid == 0 ? 0 : CLONE_NEWUSER)) != 0) {
    cr_skip_test("no mount namespace can be had");
  }
  if (uid != 0) {
    put("/proc/self/setgroups", "deny");
    put("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1");
  }
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", dir.c_str(), "tmpfs", 0, size) != 0) {
    cr_skip_test("no file system can be mounted");
  }
}

}  // namespace

Test(flusher, each_kth_checkpoint) {
  for (const bool compress : {false, true}) {
    Story story;
    story.options.every = 3;
    story.options.compress = compress;
    story.write(1);
    const auto f = story.flusher();
    for (uint64_t sequence = 1; sequence <= 10; sequence++) {
      if (sequence > 1) story.write(sequence);
      story.wake(*f);
      cr_expect(f->is_idle());
    }
    cr_expect((story.sequences() == std::set<uint64_t>{3, 6, 9}));
    for (const FlushedFile& file : cr::node::list_flushed(story.dir)) {
      story.expect_right(file);
      cr_expect_eq(file.compressed, compress);
      cr_expect_str_eq(file.name.c_str(), "job");
      cr_expect_str_eq(file.node.c_str(), "here");
      cr_expect_eq(file.uid, getuid());
      cr_expect(file.protection == story.identity().protection);
      const uint64_t raw = 2 * kPages * kPageSize;
      cr_expect(compress ? file.file_bytes < raw : file.file_bytes > raw, "%lu", file.file_bytes);
    }
    cr_expect_eq(f->status().flushes, 3u);
    cr_expect_eq(f->status().newest.sequence, 9u);
    cr_expect(story.log.empty() && story.bad.empty() &&
              access(story.temporary().c_str(), F_OK) != 0);
    // One that passes a multiple without reaching it.
    story.write(13);
    story.wake(*f);
    cr_expect(story.sequences().contains(13));
  }
}

Test(flusher, one_in_each_period) {
  Story story;
  story.options.period_ns = 60 * kSecond;
  story.write(1);
  const auto f = story.flusher();
  story.wake(*f);
  cr_expect((story.sequences() == std::set<uint64_t>{1}));
  story.write(2);
  story.wake(*f);
  story.write(3);
  story.wake(*f);
  cr_expect((story.sequences() == std::set<uint64_t>{1}), "not so soon");
  cr_expect_not(f->is_idle(), "3 waits for its time");
  cr_expect_eq(f->next_ns(), 61 * kSecond);
  story.run(*f, 61 * kSecond);
  cr_expect((story.sequences() == std::set<uint64_t>{1, 3}));
  cr_expect(f->is_idle());
  story.run(*f, 1000 * kSecond);
  cr_expect((story.sequences() == std::set<uint64_t>{1, 3}), "nothing is new");
  f->choose_by(2, 0);
  story.write(4);
  story.wake(*f);
  cr_expect((story.sequences() == std::set<uint64_t>{1, 3, 4}));
}

Test(flusher, what_is_asked_for) {
  Story story;
  story.write(1);
  const auto f = story.flusher();
  story.wake(*f);
  cr_expect(story.sequences().empty(), "nobody has chosen it");
  f->request(5);
  story.run(*f);
  cr_expect((story.sequences() == std::set<uint64_t>{1}));
  cr_expect(f->status().answered == 5 && f->status().answer.empty());
  f->request(6);
  story.run(*f);
  cr_expect_eq(f->status().flushes, 1u, "it was there");
  cr_expect_eq(f->status().answered, 6u);
  std::filesystem::remove(f->status().path);
  f->request(7);
  story.run(*f);
  cr_expect((story.sequences() == std::set<uint64_t>{1}), "it was removed meanwhile");
  // While one is under way: a newer one is owed afterwards.
  story.write(2);
  f->request(8);
  f->step(story.now);
  f->step(story.now);
  story.write(3);
  f->request(9);
  story.run(*f);
  cr_expect(story.sequences().contains(3));
  cr_expect_eq(f->status().answered, 9u);
  for (const FlushedFile& file : cr::node::list_flushed(story.dir)) story.expect_right(file);
}

// The session overwrites what is being copied, again and again.
Test(flusher, a_session_that_does_not_wait) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 8; round++) {
    Story story;
    story.options.every = 1;
    story.options.compress = round % 2 == 1;
    story.write(1);
    const auto f = story.flusher();
    uint64_t sequence = 1;
    f->wake();
    for (int i = 0; i < 60; i++) {
      f->step(story.now);
      story.now = std::max(story.now + 1, std::min(f->next_ns(), story.now + kSecond));
      if (!random.one_in(3)) continue;
      story.write(++sequence);
      f->wake();
    }
    story.wake(*f);
    cr_expect_eq(f->status().newest.sequence, sequence, "the last one is owed");
    const auto all = cr::node::list_flushed(story.dir, &story.bad);
    cr_expect(story.bad.empty() && !all.empty());
    for (const FlushedFile& file : all) story.expect_right(file);
  }
}

// Ends after each number of steps; the next process goes on with what is there.
Test(flusher, is_gone_on_with_wherever_it_ended) {
  for (const bool compress : {false, true}) {
    uint64_t whole_bytes = 0;
    bool finished = false;
    for (int steps = 100; !finished; steps = steps == 100 ? 1 : steps + 1) {
      Story story;
      story.options.compress = compress;
      story.write(1);
      {
        const auto f = story.flusher();
        f->request(1);
        for (int i = 0; i < steps; i++) f->step(story.now);
        finished = f->status().flushes == 1 && steps < 100;
      }
      const auto rest = cr::node::unfinished_flushes(story.dir, "here");
      if (steps == 100) whole_bytes = cr::node::list_flushed(story.dir).at(0).file_bytes;
      cr_assert_eq(rest.size(), finished || steps == 100 ? 0u : 1u, "after %d steps", steps);
      cr_expect(cr::node::unfinished_flushes(story.dir, "there").empty());
      if (rest.empty()) continue;
      cr_expect_str_eq(rest[0].session.name.c_str(), "job");
      cr_expect_str_eq(rest[0].session.dir.c_str(), story.session.dir().c_str());
      cr_expect(rest[0].session.id == story.identity().id);
      cr_expect(rest[0].session.protection == story.identity().protection);
      cr_expect_eq(rest[0].session.uid, getuid());
      const auto f = story.flusher();
      f->request(1);
      story.run(*f);
      const auto all = cr::node::list_flushed(story.dir);
      cr_assert_eq(all.size(), 1u, "after %d steps", steps);
      story.expect_right(all[0]);
      cr_expect_eq(access(story.temporary().c_str(), F_OK), -1);
      // One frame is cut in two.
      cr_expect_leq(all[0].file_bytes, whole_bytes + (32 << 10), "nothing is written twice");
    }
  }
}

// The session has gone on by then, or has come back from elsewhere.
Test(flusher, is_gone_on_with_for_a_later_checkpoint) {
  Story story;
  story.write(1);
  {
    const auto f = story.flusher();
    f->request(1);
    for (int i = 0; i < 4; i++) f->step(story.now);
  }
  story.written[2] = story.written[1];
  for (uint64_t i = 0; i < 100; i++) story.written[2][0][kStart + i * kPageSize] = 123456 + i;
  story.session.write(story.written[2], 2);
  story.written[3] = story.written[2];
  story.session.write(story.written[3], 3);
  const auto f = story.flusher();
  f->request(1);
  story.run(*f);
  const auto all = cr::node::list_flushed(story.dir);
  cr_assert_eq(all.size(), 1u);
  cr_expect_eq(all[0].triple.sequence, 3u);
  story.expect_right(all[0]);
}

// A frame that is not what it was is written anew.
Test(flusher, believes_nothing_that_it_left) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 20; round++) {
    Story story;
    story.options.compress = round % 2 == 1;
    story.write(1);
    {
      const auto f = story.flusher();
      f->request(1);
      for (int i = 0; i < 5; i++) f->step(story.now);
    }
    std::fstream file(story.temporary(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(0, std::ios::end);
    const auto bytes = static_cast<uint64_t>(file.tellg());
    cr_assert_gt(bytes, 8192u);
    for (int k = 0; k < 3; k++) {
      const uint64_t at = round < 4 ? random.below(8192) : random.below(bytes);
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(random.below(256)));
    }
    file.close();
    if (round % 5 == 4) {
      cr_assert_eq(truncate(story.temporary().c_str(), static_cast<off_t>(random.below(bytes))), 0);
    }
    const auto f = story.flusher();
    f->request(1);
    story.run(*f);
    const auto all = cr::node::list_flushed(story.dir, &story.bad);
    cr_assert(all.size() == 1 && story.bad.empty());
    story.expect_right(all[0]);
  }
}

Test(flusher, keeps_what_the_rules_say) {
  Story story;
  story.options.every = 1;
  story.options.keep = {2, 3, 0, 0};
  story.write(1);
  const auto f = story.flusher();
  for (uint64_t sequence = 1; sequence <= 12; sequence++) {
    story.session.realtime_ns = sequence * 1200 * kSecond;  // three in an hour
    story.write(sequence);
    story.wake(*f);
  }
  // Hours begin at 3, 6, 9, 12: the newest of the last three are 12, 11 and 8.
  cr_expect((story.sequences() == std::set<uint64_t>{8, 11, 12}));
  for (const FlushedFile& file : cr::node::list_flushed(story.dir)) story.expect_right(file);
}

Test(flusher, leaves_alone_what_is_not_its_own) {
  Story story;
  story.options.every = 1;
  story.options.keep = {1, 0, 0, 0};
  story.write(1);
  const std::string folder = story.folder();
  cr_assert_eq(mkdir(folder.c_str(), 0700), 0);
  put(folder + "/1.9.flush", "not a checkpoint at all, but of that name");
  put(folder + "/notes.txt", "notes");
  put(folder + "/there.new", "another's");
  put(folder + "/empty.flush", "");
  cr_assert_eq(mkfifo((folder + "/pipe.flush").c_str(), 0600), 0);
  cr_assert_eq(mkdir((folder + "/folder.flush").c_str(), 0700), 0);
  cr_assert_eq(symlink("/dev/zero", (folder + "/link.flush").c_str()), 0);
  put(story.dir + "/file", "");
  cr_assert_eq(mkdir((story.dir + "/empty").c_str(), 0700), 0);
  const auto f = story.flusher();
  for (uint64_t sequence = 1; sequence <= 3; sequence++) {
    if (sequence > 1) story.write(sequence);
    story.wake(*f);
  }
  cr_expect((story.sequences() == std::set<uint64_t>{3}));
  cr_expect_eq(story.bad.size(), 5u);
  for (const std::string& line : story.bad) {
    cr_expect(line.starts_with(folder + "/") && line.find("; ") != std::string::npos, "%s",
              line.c_str());
  }
  for (const char* name : {"1.9.flush", "notes.txt", "there.new", "empty.flush", "pipe.flush",
                           "folder.flush", "link.flush"}) {
    struct stat st;
    cr_expect_eq(lstat((folder + "/" + name).c_str(), &st), 0, "%s", name);
  }
  // rm of the session takes its own alone.
  std::string text;
  const auto removed = cr::node::remove_flushed(folder, story.identity().id, &text);
  cr_assert(removed.has_value(), "%s", text.c_str());
  cr_expect_eq(*removed, 1u);
  cr_expect_eq(access((folder + "/1.9.flush").c_str(), F_OK), 0);
}

// Two sessions of one name whose numbers begin alike have one folder.
Test(flusher, never_replaces_another_sessions_checkpoint) {
  Story story;
  story.options.every = 1;
  story.write(1);
  const auto first = story.flusher();
  story.wake(*first);
  const std::string path = first->status().path;
  WrittenSession other;
  other.write({full(3)}, 1);
  auto image = SessionImage::open(other.dir());
  FlushedSession identity = story.identity();
  identity.dir = other.dir();
  identity.id = cr::node::session_id_of((*image)->super().session_id);
  identity.id[15] ^= 1;  // not what the image says
  std::string text;
  std::vector<std::string> log;
  auto f = Flusher::make(
      identity, story.options, nullptr, [&](const std::string& line) { log.push_back(line); },
      &text);
  story.wake(**f);
  cr_assert_eq(log.size(), 1u);
  cr_expect(log[0].find("another session's now") != std::string::npos, "%s", log[0].c_str());
  const auto all = cr::node::list_flushed(story.dir);
  cr_assert_eq(all.size(), 1u);
  story.expect_right(all[0]);
  // Its number, but another user's.
  identity = story.identity();
  identity.uid++;
  story.write(2);
  log.clear();
  auto g = Flusher::make(
      identity, story.options, nullptr, [&](const std::string& line) { log.push_back(line); },
      &text);
  (*g)->request(1);
  story.run(**g);
  cr_assert_eq(log.size(), 1u);
  cr_expect(log[0].find("another user's session") != std::string::npos, "%s", log[0].c_str());
  cr_expect_str_eq((*g)->status().answer.c_str(), (*g)->status().trouble.c_str());
}

Test(flusher, who_may_have_written_a_file) {
  Story story;
  story.options.every = 1;
  story.write(1);
  story.wake(*story.flusher());
  const std::string path = story.folder() + "/1.1.flush";
  const auto verdict = [&] {
    auto file = FlushFile::open(path);
    return file ? Errc::kOk : file.error().code;
  };
  cr_expect(verdict() == Errc::kOk);
  chmod(path.c_str(), 0620);
  cr_expect(verdict() == Errc::kPermission);
  chmod(path.c_str(), 0602);
  cr_expect(verdict() == Errc::kPermission);
  chmod(path.c_str(), 0644);
  cr_expect(verdict() == Errc::kOk);
  if (getuid() != 0) return;
  cr_assert_eq(chown(path.c_str(), 12345, 12345), 0);
  cr_expect(verdict() == Errc::kPermission, "somebody else's");
  cr_expect(cr::node::list_flushed(story.dir).empty());
  cr_assert_eq(chown(story.dir.c_str(), 12345, 12345), 0);
  cr_expect(verdict() == Errc::kOk, "the directory's owner");
  cr_assert_eq(chown(story.folder().c_str(), 54321, 12345), 0);
  story.write(2);
  story.wake(*story.flusher());
  cr_assert_eq(story.log.size(), 1u);
  cr_expect(story.log[0].find("others may write there") != std::string::npos);
}

// Every byte of a real file: either it says so when it is opened, or when it is read.
Test(flusher, any_changed_byte_is_found_by_verify) {
  for (const bool compress : {false, true}) {
    Story story;
    story.options.every = 1;
    story.options.compress = compress;
    Pages pages;
    for (uint64_t i = 0; i < 6; i++) pages[kStart + i * kPageSize] = 1 + i;
    story.written[1] = {pages};
    story.session.write({pages}, 1);
    story.wake(*story.flusher());
    const std::string path = story.folder() + "/1.1.flush";
    std::string text;
    cr_assert(cr::node::verify_flush(path, &text).has_value(), "%s", text.c_str());
    const uint64_t bytes = std::filesystem::file_size(path);
    const int fd = open(path.c_str(), O_RDWR);
    for (uint64_t at = 0; at < bytes; at += at < 512 ? 1 : 61) {
      uint8_t byte;
      cr_assert_eq(pread(fd, &byte, 1, static_cast<off_t>(at)), 1);
      byte ^= 0x40;
      cr_assert_eq(pwrite(fd, &byte, 1, static_cast<off_t>(at)), 1);
      cr_expect_not(cr::node::verify_flush(path, &text).has_value(), "byte %lu", at);
      cr_expect(text.starts_with(path + ": ") && text.find("; ") != std::string::npos, "%s",
                text.c_str());
      byte ^= 0x40;
      cr_assert_eq(pwrite(fd, &byte, 1, static_cast<off_t>(at)), 1);
    }
    cr_expect(cr::node::verify_flush(path, &text).has_value());
    cr_assert_eq(ftruncate(fd, static_cast<off_t>(bytes - 1)), 0);
    cr_expect_not(cr::node::verify_flush(path, &text).has_value());
    close(fd);
  }
}

Test(flusher, a_directory_that_is_not_there_yet) {
  Story story;
  story.options.every = 1;
  story.options.dir = story.dir + "/mount";
  story.write(1);
  const auto f = story.flusher();
  story.wake(*f);
  cr_assert_eq(story.log.size(), 1u);
  cr_expect(
      story.log[0].find(story.options.dir + ": ") != std::string::npos &&
          story.log[0].find("mount the file system, or make the directory") != std::string::npos,
      "%s", story.log[0].c_str());
  cr_expect_not(f->is_idle());
  story.run(*f, story.now + 400 * kSecond);
  cr_expect_eq(story.log.size(), 1u, "said once");
  const uint64_t next = f->next_ns();
  cr_expect(next > story.now && next <= story.now + 61 * kSecond,
            "tried again, but not all the time");
  cr_assert_eq(mkdir(story.options.dir.c_str(), 0700), 0);
  story.run(*f, next);
  cr_expect(f->status().trouble.empty() && f->is_idle());
  cr_expect_eq(f->status().flushes, 1u);
}

Test(flusher, an_image_that_goes_away) {
  Story story;
  story.write(1);
  const std::string temporary = story.temporary();
  const auto f = story.flusher();
  f->request(1);
  for (int i = 0; i < 3; i++) f->step(story.now);
  cr_expect_eq(access(temporary.c_str(), F_OK), 0);
  // What was opened can be read to the end; it is not needed any more to look again.
  std::filesystem::remove_all(story.session.dir());
  story.run(*f);
  cr_expect(f->is_idle());
  cr_expect_eq(access(temporary.c_str(), F_OK), -1);
  f->request(2);
  story.run(*f);
  cr_expect(f->is_idle());
  cr_expect(f->status().answered == 2 &&
            f->status().answer.find("image is gone") != std::string::npos);
}

Test(flusher, no_room) {
  Story story;
  mount_small(story.dir, "size=1M");
  story.options.every = 1;
  story.write(1);
  const auto f = story.flusher();
  story.wake(*f);
  cr_assert_eq(story.log.size(), 1u);
  cr_expect(story.log[0].find("MiB are needed and") != std::string::npos &&
                story.log[0].find("make room there") != std::string::npos,
            "%s", story.log[0].c_str());
  cr_expect_not(f->is_idle());
  // Nobody can know how far compressed pages go.
  story.options.compress = true;
  std::ofstream(story.dir + "/filler") << std::string(900 << 10, 'x');
  const auto g = story.flusher();
  story.wake(*g);
  cr_assert_eq(story.log.size(), 2u);
  cr_expect(story.log[1].find("No space left on device; make room there") != std::string::npos,
            "%s", story.log[1].c_str());
  cr_expect_eq(access(story.temporary().c_str(), F_OK), -1, "others need the room too");
  cr_assert_eq(mount(nullptr, story.dir.c_str(), nullptr, MS_REMOUNT, "size=64M"), 0);
  story.run(*g, story.now + 100 * kSecond);
  cr_expect(g->status().trouble.empty() && g->is_idle());
  const auto all = cr::node::list_flushed(story.dir);
  cr_assert_eq(all.size(), 1u);
  story.expect_right(all[0]);
}

Test(flusher, a_file_system_that_cannot_be_written) {
  Story story;
  mount_small(story.dir, "size=64M");
  story.options.every = 1;
  story.write(1);
  const auto f = story.flusher();
  f->wake();
  for (int i = 0; i < 3; i++) f->step(story.now);
  f->request(1);
  cr_assert_eq(mount(nullptr, story.dir.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), -1,
               "a file is open for writing");
  story.run(*f);
  cr_expect_eq(f->status().flushes, 1u);
  story.write(2);
  cr_assert_eq(mount(nullptr, story.dir.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  story.wake(*f);
  cr_assert_eq(story.log.size(), 1u);
  cr_expect(story.log[0].find("Read-only file system; mount the file system for writing") !=
                std::string::npos,
            "%s", story.log[0].c_str());
  cr_expect((story.sequences() == std::set<uint64_t>{1}));
  cr_assert_eq(mount(nullptr, story.dir.c_str(), nullptr, MS_REMOUNT, nullptr), 0);
  story.run(*f, story.now + 100 * kSecond);
  cr_expect((story.sequences() == std::set<uint64_t>{1, 2}));
}

// Two crstored that were given one name on one machine.
Test(flusher, another_writer_of_the_same_file) {
  Story story;
  story.write(1);
  const auto first = story.flusher(), second = story.flusher();
  first->request(1);
  for (int i = 0; i < 3; i++) first->step(story.now);
  cr_expect(cr::node::unfinished_flushes(story.dir, "here").empty(), "somebody sees to it");
  second->request(1);
  story.run(*second);
  cr_assert_eq(story.log.size(), 1u);
  cr_expect(story.log[0].find("another crstored is writing it") != std::string::npos);
  story.run(*first);
  cr_expect_eq(first->status().flushes, 1u);
  story.run(*second, story.now + 10 * kSecond);
  cr_expect(second->is_idle() && second->status().flushes == 0 && second->status().trouble.empty());
  const auto all = cr::node::list_flushed(story.dir);
  cr_assert_eq(all.size(), 1u);
  story.expect_right(all[0]);
}

// What another node had begun before the session came here.
Test(flusher, what_another_node_will_not_finish) {
  Story story;
  story.write(1);
  story.options.node = "there";
  {
    const auto f = story.flusher();
    f->request(1);
    for (int i = 0; i < 3; i++) f->step(story.now);
  }
  cr_expect_eq(access((story.folder() + "/there.new").c_str(), F_OK), 0);
  story.options.node = "here";
  story.options.every = 1;
  story.session.epoch = 2;
  story.write(2);
  story.wake(*story.flusher());
  cr_expect_eq(access((story.folder() + "/there.new").c_str(), F_OK), -1);
  cr_expect_eq(access((story.folder() + "/2.2.flush").c_str(), F_OK), 0);
}

Test(flusher, no_faster_than_it_may) {
  Story story;
  story.write(1);
  const auto f = story.flusher(std::make_shared<RateLimit>(1 << 20));
  f->request(1);
  const uint64_t begin = story.now;
  story.run(*f, 1000 * kSecond);
  cr_expect_eq(f->status().flushes, 1u);
  const uint64_t least = (f->status().traffic_bytes - (4 << 20)) * 1000 >> 20;  // milliseconds
  cr_expect_geq((story.now - begin) / 1'000'000, least);
  cr_expect_gt(least, 0u);
}

Test(flusher, bad_directories) {
  std::string text;
  FlushOptions options;
  options.dir = "relative";
  FlushedSession s{{}, "job", "/tmp/image", {}, 0};
  cr_expect(Flusher::make(s, options, nullptr, {}, &text).error().code == Errc::kInvalid);
  cr_expect(text.find("'relative'") != std::string::npos);
  options.dir = "/tmp";
  s.dir = "";
  cr_expect(Flusher::make(s, options, nullptr, {}, &text).error().code == Errc::kInvalid);
}
