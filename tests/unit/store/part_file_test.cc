// SPDX-License-Identifier: MIT
// part_file_test.cc - parts written one after the other into two buffers, each in place.
// Invariant under test: whatever changed between them, a part that was committed has exactly its
// rows, every checksum is right, and what did not change is not written; one that was not is not
// whole, and the other buffer is as it was.
#include "store/part_file.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "format/checksum.h"
#include "tests/unit/format/synthetic_part.h"
#include "tests/unit/nvheap/random.h"

namespace {

using cr::Errc;
using cr::kPageSize;
using cr::store::LoadedPart;
using cr::store::PartState;
using cr::store::PartWriter;
using cr_test::Random;
using Rows = std::vector<uint64_t>;  // what each is filled with; 0: zeros

std::string page_of(uint64_t what) {
  std::string page(kPageSize, '\0');
  for (size_t i = 0; i < kPageSize && what != 0; i += 8) {
    const uint64_t word = what * (i + 1);
    memcpy(&page[i], &word, 8);
  }
  return page;
}
const uint8_t* bytes_of(const std::string& s) { return reinterpret_cast<const uint8_t*>(s.data()); }

// A description of so many extents.
std::vector<uint8_t> description(uint64_t extents) {
  cr_test::SyntheticPart part;
  part.extents.clear();
  for (uint64_t i = 0; i < extents; i++) part.extents.push_back({0, 0, i * 2, 1, 0});
  return part.description();
}

cr::format::PartHeader header(uint64_t sequence, uint64_t rows) {
  cr_test::SyntheticPart part;
  cr::format::PartHeader h = part.header;
  h.triple = {1, sequence, sequence};
  h.rows = rows;
  h.slots = rows;
  h.data_parts = 1;
  h.parity_parts = 2;
  return h;
}

class Parts {
 public:
  Parts() {
    char name[] = "/tmp/cr-part-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    dir_ = name;
  }
  ~Parts() { std::filesystem::remove_all(dir_); }

  std::string path(int buffer) const { return cr::store::part_path(dir_, 3, buffer); }

  // Begins to write over `base` (-1: none); its rows that are the same are not put.
  std::unique_ptr<PartWriter> begin(int buffer, bool durable, int base) {
    base_.reset();
    if (base >= 0) base_ = cr::store::load_part(path(base)).part;
    auto writer = PartWriter::open(path(buffer), durable, base_.get());
    cr_assert(writer.has_value(), "%s", writer.error().what);
    return std::move(*writer);
  }
  // Puts the rows that are not the base's; returns the pages, which must stay until drain().
  static std::string put(PartWriter& writer, const Rows& rows, const Rows& base) {
    std::string pages;
    for (size_t i = 0; i < rows.size(); i++) {
      if (rows[i] != 0 && rows[i] != (i < base.size() ? base[i] : 0)) pages += page_of(rows[i]);
    }
    const uint8_t* at = bytes_of(pages);
    for (size_t i = 0; i < rows.size(); i++) {
      if (rows[i] == (i < base.size() ? base[i] : 0)) continue;
      const bool zero = rows[i] == 0;
      const uint64_t check = zero ? 0 : cr::format::row_check(at);
      cr_assert(writer.put(i, check, zero ? nullptr : at).has_value());
      at += zero ? 0 : kPageSize;
    }
    return pages;
  }
  // All of it; the bytes written.
  uint64_t write(int buffer, const Rows& rows, uint64_t sequence, int base, const Rows& base_rows,
                 uint64_t extents = 3, bool durable = false) {
    const auto writer = begin(buffer, durable, base);
    const std::string pages = put(*writer, rows, base_rows);
    cr_assert(writer->drain().has_value());
    commit(*writer, rows, sequence, extents);
    return writer->bytes_written();
  }
  static void commit(PartWriter& writer, const Rows& rows, uint64_t sequence, uint64_t extents) {
    const auto done = writer.commit(header(sequence, rows.size()), description(extents));
    cr_assert(done.has_value(), "%s", done.error().what);
  }

  void expect(int buffer, const Rows& rows, uint64_t sequence, uint64_t extents = 3) const {
    const PartState s = cr::store::load_part(path(buffer));
    cr_assert_not_null(s.part.get(), "%s", s.error.what);
    const cr::format::PartView& v = s.part->view;
    cr_assert_eq(v.header.triple.sequence, sequence);
    cr_assert_eq(v.header.rows, rows.size());
    cr_assert_eq(v.description.extents.size(), extents);
    const auto damaged = cr::store::damaged_rows(*s.part);
    cr_assert(damaged.has_value() && damaged->empty());
    // Between the parts of the file there is nothing. (Read, as a mapping takes room for holes.)
    const std::string bytes = content(buffer);
    const auto is_zero = [&](uint64_t from, uint64_t to) {
      return bytes.find_first_not_of('\0', from) >= to;
    };
    const uint64_t end_of_rows = kPageSize * (1 + rows.size());
    cr_assert(is_zero(sizeof(v.header), kPageSize));
    cr_assert(is_zero(end_of_rows, v.header.description_off), "between rows and description");
    std::string page(kPageSize, 'x');
    for (uint64_t i = 0; i <= rows.size(); i++) {
      uint64_t row = 0;
      const auto read =
          cr::store::read_rows(*s.part, i, 1, reinterpret_cast<uint8_t*>(page.data()), &row);
      cr_assert_eq(read.has_value(), i < rows.size());
      cr_assert(i == rows.size() || page == page_of(rows[i]), "row %lu", i);
    }
  }
  void expect_not_whole(int buffer) const {
    const PartState s = cr::store::load_part(path(buffer));
    cr_assert(s.part == nullptr && s.error.code == Errc::kNotWhole, "%s", s.error.what);
  }
  uint64_t allocated_bytes(int buffer) const {
    struct stat st {};
    cr_assert_eq(stat(path(buffer).c_str(), &st), 0);
    return static_cast<uint64_t>(st.st_blocks) * 512;
  }
  std::string content(int buffer) const {
    std::ifstream in(path(buffer), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void set_content(int buffer, const std::string& bytes) const {
    std::ofstream(path(buffer), std::ios::binary) << bytes;
    chmod(path(buffer).c_str(), 0600);
  }
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_;
  std::unique_ptr<LoadedPart> base_;
};

void change(Rows& rows, Random& random, uint64_t most) {
  const uint64_t how = random.below(9);
  if (how == 0) rows.resize(random.below(most), 0);
  if (how == 1) rows.resize(rows.size() / 4);
  if (how == 2) rows.resize(rows.size() + random.below(200), 0);
  if (rows.empty()) return;
  const uint64_t begin = random.below(rows.size());
  const uint64_t end = std::min<uint64_t>(rows.size(), begin + 1 + random.below(most / 3));
  for (uint64_t i = begin; i < end; i++) {
    if (how == 3 && random.one_in(2)) continue;
    rows[i] = how == 4 || how == 5 || random.one_in(9) ? 0 : 1 + random.below(1000000);
  }
}

Rows many(uint64_t rows) {
  Rows r(rows);
  for (uint64_t i = 0; i < rows; i++) r[i] = i + 1;
  return r;
}

// What opening, writing and committing these rows comes to.
cr::Result<void> try_to_write(const std::string& path, const Rows& rows, const LoadedPart* base) {
  auto writer = PartWriter::open(path, false, base);
  if (!writer) return writer.error();
  std::string pages;
  for (const uint64_t what : rows) pages += page_of(what);
  for (size_t i = 0; i < rows.size(); i++) {
    const uint8_t* page = bytes_of(pages) + i * kPageSize;
    CR_TRYV((*writer)->put(i, cr::format::row_check(page), page));
  }
  CR_TRYV((*writer)->drain());
  return (*writer)->commit(header(9, rows.size()), description(3));
}

struct CountSyncs : cr::store::StorageObserver {
  void step(const cr::store::StorageStep& s) override {
    files += s.kind == cr::store::StorageStep::kSync ? 1 : 0;
    directories += s.kind == cr::store::StorageStep::kSyncDirectory ? 1 : 0;
  }
  int files = 0, directories = 0;
};

}  // namespace

Test(part_file, bytes_are_as_documented) {
  Parts parts;
  cr_test::SyntheticPart made;
  const std::vector<uint8_t> wanted = made.bytes();
  auto writer = PartWriter::open(parts.path(0), false, nullptr);
  cr_assert(writer.has_value());
  for (size_t i = 0; i < made.rows.size(); i++) {
    const uint8_t* page = bytes_of(made.rows[i]);
    cr_assert((*writer)->put(i, cr::format::row_check(page), page).has_value());
  }
  cr_assert((*writer)->drain().has_value());
  cr::format::PartHeader h = made.header;
  h.rows = made.rows.size();
  // What the writer fills in itself.
  h.write_lock = h.unit_pages = h.rotate_rows = h.format_version = 0;
  h.description_off = h.checks_off = h.checks_xxh3 = h.checksum = 0;
  cr_assert((*writer)->commit(h, made.description()).has_value());
  const std::string real = parts.content(0);
  cr_assert(std::ranges::equal(std::vector<uint8_t>(real.begin(), real.end()), wanted));
  cr_assert_eq(parts.path(0), parts.dir() + "/part.3.0");
  struct stat st {};
  stat(parts.path(0).c_str(), &st);
  cr_assert_eq(st.st_mode & 0777, 0600);
}

Test(part_file, holds_exactly_the_last_checkpoint) {
  Random random(cr_test::test_seed());
  for (int story = 0; story < 4; story++) {
    Parts parts;
    Rows rows[2], now;
    uint64_t sequences[2] = {}, extents[2] = {};
    bool whole[2] = {};
    int newest = -1;
    for (uint64_t sequence = 1; sequence <= 40; sequence++) {
      for (uint64_t k = random.below(4); k > 0; k--) change(now, random, 700);
      const int to = newest == 0 ? 1 : 0;
      const int base = newest >= 0 && !random.one_in(8) ? newest : -1;
      const Rows base_rows = base >= 0 ? rows[base] : Rows();
      const auto writer = parts.begin(to, random.one_in(12), base);
      parts.expect_not_whole(to);
      // As when the session was faster: rows of a checkpoint that is not committed come first.
      Rows before = base_rows;
      std::string pages;
      if (random.one_in(3)) {
        Rows other = now;
        for (uint64_t k = 1 + random.below(3); k > 0; k--) change(other, random, 900);
        pages = Parts::put(*writer, other, base_rows);
        cr_assert(writer->drain().has_value());
        before = other;
        // What is behind the end comes from the base no more.
        for (size_t i = other.size(); i < base_rows.size(); i++) before.push_back(base_rows[i]);
      }
      const std::string last = Parts::put(*writer, now, before);
      cr_assert(writer->drain().has_value());
      if (newest >= 0) parts.expect(newest, rows[newest], sequences[newest], extents[newest]);
      whole[to] = false;
      if (random.one_in(6)) {  // given up
        parts.expect_not_whole(to);
        continue;
      }
      const uint64_t count = now.empty() ? 0 : random.one_in(3) ? random.below(2000) : 3;
      Parts::commit(*writer, now, sequence, count);
      rows[to] = now;
      sequences[to] = sequence;
      extents[to] = count;
      whole[to] = true;
      newest = to;
      for (int b = 0; b < 2; b++) {
        if (whole[b]) parts.expect(b, rows[b], sequences[b], extents[b]);
      }
    }
  }
}

Test(part_file, rows_that_come_back_after_others_are_zeros) {
  Parts parts;
  parts.write(0, many(100), 1, -1, {});
  parts.write(0, many(10), 2, -1, {});
  Rows rows = many(100);
  for (size_t i = 10; i < 90; i++) rows[i] = 0;
  parts.write(0, rows, 3, -1, {});
  parts.expect(0, rows, 3);
  // Over where description and checksums lay.
  rows.resize(5000, 0);
  rows[4999] = 7;
  parts.write(0, rows, 4, -1, {}, 1500);
  parts.expect(0, rows, 4, 1500);
}

Test(part_file, a_row_far_behind_the_last_one_leaves_nothing) {
  Parts parts;
  parts.write(0, many(50), 1, -1, {});
  const auto writer = parts.begin(0, false, -1);
  const std::string page = page_of(1);
  // In the description, and behind the end of the file.
  for (const uint64_t row : {66ul, 67ul, 68ul, 5000ul}) {
    cr_assert(writer->put(row, cr::format::row_check(bytes_of(page)), bytes_of(page)).has_value());
  }
  cr_assert(writer->drain().has_value());
  Parts::commit(*writer, Rows(50), 2, 3);
  parts.expect(0, Rows(50), 2);
  cr_assert_lt(parts.content(0).size(), 100 * kPageSize);
}

Test(part_file, parts_without_rows) {
  Parts parts;
  parts.write(0, {}, 1, -1, {}, 0);
  parts.expect(0, {}, 1, 0);
  parts.write(1, many(3), 2, 0, {});
  parts.write(0, {}, 3, 1, {}, 0);
  parts.expect(0, {}, 3, 0);
  parts.expect(1, many(3), 2);
}

// More than goes into one write, so that many are under way at once.
Test(part_file, a_large_part_is_brought_over) {
  Parts parts;
  Rows rows = many(9000);
  cr_assert_gt(parts.write(0, rows, 1, -1, {}), 9000 * kPageSize);
  Rows next = rows;
  next[8000] = 5;
  parts.write(1, next, 2, 0, rows);
  parts.expect(1, next, 2);
  parts.expect(0, rows, 1);
}

Test(part_file, what_did_not_change_is_not_written) {
  Parts parts;
  const Rows rows = many(20000);
  parts.write(0, rows, 1, -1, {});
  parts.write(1, rows, 2, 0, rows);
  // Both have the same; only a few rows, and the blocks that have their checksums, are new.
  cr_assert_eq(parts.write(0, rows, 3, 1, rows), 0u);
  Rows next = rows;
  for (size_t i = 100; i < 110; i++) next[i] = 7;
  cr_assert_eq(parts.write(1, next, 4, 0, rows), (10 + 1) * kPageSize);
  // Here too, as it has not been here; and other extents, in as many blocks.
  next[15000] = 0;
  next[15001] = 9;
  cr_assert_leq(parts.write(
                    0, next, 5, 1,
                    [&] {
                      Rows base = next;
                      base[15000] = rows[15000];
                      base[15001] = rows[15001];
                      return base;
                    }(),
                    7),
                (11 + 2 + 1) * kPageSize);
  parts.expect(0, next, 5, 7);
  // Some rows more: where they lie there was room for them.
  Rows more = next;
  for (int i = 0; i < 200; i++) more.push_back(3);
  cr_assert_leq(parts.write(1, more, 6, 0, next), (200 + 1 + 1 + 1 + 2) * kPageSize);
  parts.expect(1, more, 6);
}

Test(part_file, rows_of_zeros_need_no_room) {
  Parts parts;
  Rows rows = many(5000);
  parts.write(0, rows, 1, -1, {});
  cr_assert_gt(parts.allocated_bytes(0), 5000 * kPageSize);
  const Rows base = rows;
  for (size_t i = 100; i < 4000; i++) rows[i] = 0;
  parts.write(1, rows, 2, 0, base);
  cr_assert_lt(parts.allocated_bytes(1), 1200 * kPageSize);
  parts.write(0, rows, 3, 1, rows);
  cr_assert_lt(parts.allocated_bytes(0), 1200 * kPageSize);
  parts.expect(0, rows, 3);
  rows.resize(200);
  parts.write(1, rows, 4, 0, rows);
  cr_assert_lt(parts.allocated_bytes(1), 150 * kPageSize);
  parts.expect(1, rows, 4);
}

Test(part_file, waits_for_the_disk_only_if_it_is_asked_to) {
  Parts parts;
  CountSyncs count;
  cr::store::observe_storage(&count);
  parts.write(0, many(20), 1, -1, {}, 3, false);
  parts.write(0, many(20), 2, -1, {}, 3, false);
  cr_assert_eq(count.files + count.directories, 0);
  parts.write(1, many(20), 3, 0, many(20), 3, true);
  cr_assert_eq(count.files, 3, "a new file, its content, the commit");
  cr_assert_eq(count.directories, 1);
  parts.write(0, many(20), 4, 1, many(20), 3, true);
  cr_assert_eq(count.files, 6, "the lock, the content, the commit");
  cr_assert_eq(count.directories, 1);
  cr::store::observe_storage(nullptr);
}

Test(part_file, damaged_rows_are_named) {
  Parts parts;
  Rows rows = many(50);
  rows[20] = 0;
  parts.write(0, rows, 1, -1, {});
  std::string bytes = parts.content(0);
  for (const uint64_t row : {0, 20, 21, 49}) bytes[4096 * (1 + row) + 77] ^= 4;
  parts.set_content(0, bytes);
  const PartState s = cr::store::load_part(parts.path(0));
  cr_assert_not_null(s.part.get());
  cr_assert(*cr::store::damaged_rows(*s.part) == (std::vector<uint64_t>{0, 20, 21, 49}));
  std::string page(kPageSize, 'x');
  for (uint64_t i = 0; i < 50; i++) {
    uint64_t row = 1000;
    const auto read =
        cr::store::read_rows(*s.part, i, 1, reinterpret_cast<uint8_t*>(page.data()), &row);
    // Of a row of zeros it does not matter what the file has.
    cr_assert_eq(read.has_value(), i != 0 && i != 21 && i != 49);
    cr_assert(read || (read.error().code == Errc::kDamaged && row == i));
    if (read) cr_assert(page == page_of(rows[i]));
  }
  std::string all(50 * kPageSize, 'x');
  uint64_t row = 1000;
  const auto part = [&](uint64_t first, uint64_t count) {
    return cr::store::read_rows(*s.part, first, count, reinterpret_cast<uint8_t*>(all.data()),
                                &row);
  };
  cr_assert(!part(1, 49) && row == 21, "the first damaged row, not %lu", row);
  cr_assert(part(22, 27).has_value());
  for (uint64_t i = 22; i < 49; i++) {
    cr_assert(all.compare((i - 22) * kPageSize, kPageSize, page_of(rows[i])) == 0, "row %lu", i);
  }
  cr_assert(!part(48, 3), "there are 50 rows");
}

Test(part_file, what_is_no_part_is_replaced_and_what_may_be_one_is_not) {
  Parts parts;
  parts.write(0, many(5), 1, -1, {});
  const std::string right = parts.content(0);
  const auto replaced = [&] {
    auto writer = PartWriter::open(parts.path(0), false, nullptr);
    if (!writer) return writer.error().code;
    Parts::commit(**writer, Rows(4), 2, 3);
    parts.expect(0, Rows(4), 2);
    return Errc::kOk;
  };
  parts.set_content(0, "");
  cr_assert_eq(replaced(), Errc::kOk, "empty");
  parts.set_content(0, std::string(70000, 'x'));
  cr_assert_eq(replaced(), Errc::kOk, "foreign");
  std::string bytes = right;
  bytes[300] ^= 1;
  parts.set_content(0, bytes);
  cr_assert_eq(replaced(), Errc::kOk, "damaged");
  parts.set_content(0, right + "x");
  cr_assert_eq(replaced(), Errc::kOk, "with something behind it");
  parts.set_content(0, right);
  chmod(parts.path(0).c_str(), 0620);
  cr_assert_eq(cr::store::load_part(parts.path(0)).error.code, Errc::kPermission);
  cr_assert_eq(replaced(), Errc::kOk, "others may write it");

  bytes = right;
  bytes[8] = 2;
  parts.set_content(0, bytes);
  cr_assert_eq(replaced(), Errc::kTooNew);
  cr_assert_eq(parts.content(0), bytes);
  unlink(parts.path(0).c_str());
  cr_assert_eq(symlink("part.3.1", parts.path(0).c_str()), 0);
  cr_assert_eq(replaced(), Errc::kSystem, "a link");
  unlink(parts.path(0).c_str());
  cr_assert_eq(mkdir(parts.path(0).c_str(), 0700), 0);
  cr_assert_eq(replaced(), Errc::kSystem, "a directory");
  cr_assert_neq(access((parts.path(0) + ".new").c_str(), F_OK), 0);
}

Test(part_file, a_limit_of_size_is_an_error_and_nothing_else) {
  signal(SIGXFSZ, SIG_IGN);
  Parts parts;
  const Rows rows = many(400), next = many(3000);
  parts.write(0, rows, 1, -1, {});
  int failed = 0;
  for (const uint64_t pages : {0, 1, 2, 300, 401, 420, 2999, 3001, 3200, 3206, 3300}) {
    for (const bool in_place : {false, true}) {
      unlink(parts.path(1).c_str());
      if (in_place) parts.write(1, many(100), 2, -1, {});
      const auto base = cr::store::load_part(parts.path(0)).part;
      rlimit limit{pages * kPageSize, RLIM_INFINITY};
      cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
      const auto done = try_to_write(parts.path(1), next, base.get());
      limit.rlim_cur = RLIM_INFINITY;
      cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
      if (done) {
        parts.expect(1, next, 9);
        continue;
      }
      failed++;
      cr_assert_eq(done.error().code, Errc::kSystem);
      cr_assert_eq(done.error().sys_errno, EFBIG, "%lu pages: %s", pages, done.error().what);
      const PartState s = cr::store::load_part(parts.path(1));
      if (pages == 0 && in_place) {
        cr_assert_not_null(s.part.get(), "not even the lock could be written");
      } else {
        parts.expect_not_whole(1);
      }
      parts.expect(0, rows, 1);
      cr_assert_neq(access((parts.path(1) + ".new").c_str(), F_OK), 0);
    }
  }
  cr_assert_geq(failed, 18);
}

// In a file system of its own; needs a user namespace.
Test(part_file, a_full_disk_is_an_error_and_nothing_else) {
  Parts parts;
  const uid_t uid = getuid();
  if (unshare(CLONE_NEWNS | (uid == 0 ? 0 : CLONE_NEWUSER)) != 0 ||
      mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("none", parts.dir().c_str(), "tmpfs", 0, "size=4m,mode=0700") != 0) {
    cr_skip_test("no file system may be mounted here");
  }
  const Rows rows = many(400);
  parts.write(0, rows, 1, -1, {});
  {
    const auto base = cr::store::load_part(parts.path(0)).part;
    for (const uint64_t n : {700ul, 900ul, 3000ul}) {
      const auto done = try_to_write(parts.path(1), many(n), base.get());
      cr_assert(!done && done.error().sys_errno == ENOSPC, "%lu rows", n);
      parts.expect_not_whole(1);
      parts.expect(0, rows, 1);
    }
    // With less there is room again.
    cr_assert(try_to_write(parts.path(1), many(400), base.get()).has_value());
    parts.expect(1, many(400), 9);
  }
  umount(parts.dir().c_str());
}

// A disk that fails gives EIO where it is read and SIGBUS where it is mapped; so does, here, a file
// that is made shorter.
Test(part_file, a_file_that_is_made_shorter_ends_nobody) {
  Parts parts;
  const Rows rows = many(400);
  parts.write(0, rows, 1, -1, {});
  const PartState loaded = cr::store::load_part(parts.path(0));
  const std::string whole = parts.content(0);
  const auto writer = parts.begin(1, false, 0);
  cr_assert_eq(truncate(parts.path(0).c_str(), 100 * kPageSize), 0);
  const cr::format::PartView& v = loaded.part->view;
  cr_assert_eq(cr::format::checksum(v.description_bytes.data(), v.description_bytes.size()),
               v.header.description_xxh3);
  cr_assert_eq(cr::format::checksum(v.checks.data(), v.checks.size_bytes()), v.header.checks_xxh3);
  const auto done = writer->commit(header(2, rows.size()), description(3));
  cr_assert(!done && done.error().code == Errc::kDamaged && writer->has_bad_base(), "%s",
            done.error().what);
  parts.expect_not_whole(1);
  cr_assert_eq(cr::store::load_part(parts.path(0)).error.code, Errc::kDamaged);
  cr_assert_eq(truncate(parts.path(0).c_str(), 0), 0);
  cr_assert_eq(cr::store::load_part(parts.path(0)).error.code, Errc::kNotWhole);
  parts.set_content(0, whole);
  parts.expect(0, rows, 1);
}
