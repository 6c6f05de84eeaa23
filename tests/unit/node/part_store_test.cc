// SPDX-License-Identifier: MIT
// part_store_test.cc - the parts of a node: listing, removing, and taking in what a neighbour
// sends, also if it sends nonsense.
// Invariant under test: only whole parts that are in their place are told of, in their order; what
// breaks a rule is an error, takes no memory, and leaves the part that was there.
#include "node/part_store.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "tests/unit/node/given_parts.h"

namespace {

using cr::Errc;
using cr::kPageSize;
using cr::format::PartCommit;
using cr::format::PartEntry;
using cr::format::PartOffer;
using cr::format::RowRecord;
using cr::format::Triple;
using cr::node::PartReceiver;
using cr::node::PartStore;
using cr::node::SessionId;
using cr_test::Chunk;
using cr_test::commit_of;
using cr_test::layout;
using cr_test::offer;
using cr_test::session;
using cr_test::Store;
using Rows = std::vector<uint64_t>;  // what each is filled with; 0: zeros

std::unique_ptr<PartReceiver> begin(Store& store, const PartOffer& o) {
  auto receiver = PartReceiver::begin(*store, o);
  cr_assert(receiver.has_value(), "%s", receiver.error().what);
  return std::move(*receiver);
}

Errc finish(PartReceiver& receiver, uint64_t sequence, uint64_t rows, uint64_t epoch = 1) {
  const auto d = cr_test::SyntheticPart().description();
  cr_assert(receiver.add_description(0, d).has_value());
  PartCommit c = commit_of(sequence, rows, d);
  c.triple.epoch = epoch;
  c.sent_rows = receiver.rows_taken();
  return receiver.commit(c).error().code;
}

// Rows that are not the base's are given. Has it the base that was offered?
bool take_in(Store& store, const PartOffer& o, const Rows& rows) {
  const auto receiver = begin(store, o);
  for (size_t i = 0; i < rows.size();) {
    Chunk chunk;
    while (i < rows.size() && chunk.rows < cr::format::kChunkRows) {
      chunk.add(i, rows[i]);
      i++;
    }
    cr_assert_eq(chunk.give_to(*receiver), Errc::kOk);
  }
  cr_assert_eq(finish(*receiver, o.triple.sequence, rows.size(), o.triple.epoch), Errc::kOk);
  return receiver->has_base();
}

void expect_rows(Store& store, const PartOffer& o, const Rows& rows) {
  auto part = store->load(session(o.session_id[0]), o.holder, o.triple, layout());
  cr_assert(part.has_value(), "sequence %lu: %s", o.triple.sequence, part.error().what);
  const auto& v = (*part)->view;
  cr_assert_eq(v.header.rows, rows.size());
  std::vector<uint8_t> pages(rows.size() * kPageSize);
  uint64_t row = 0;
  const auto read = cr::node::read_current_rows(**part, 0, rows.size(), pages.data(), &row);
  cr_assert(read.has_value(), "row %lu: %s", row, read.error().what);
  for (size_t i = 0; i < rows.size(); i++) {
    cr_assert_eq(pages[i * kPageSize + 99], static_cast<uint8_t>(rows[i]), "row %zu", i);
  }
}

bool has(Store& store, const PartOffer& o) {
  return store->load(session(o.session_id[0]), o.holder, o.triple, layout()).has_value();
}

Errc begin_error(Store& store, const std::function<void(PartOffer&)>& change) {
  PartOffer o = offer(9, 1);
  change(o);
  auto receiver = PartReceiver::begin(*store, o);
  return receiver ? Errc::kOk : receiver.error().code;
}

}  // namespace

Test(part_store, sessions_have_names_of_32_digits) {
  SessionId id = session(0xab);
  const std::string text = cr::node::to_hex(id);
  cr_assert_str_eq(text.c_str(), "ab000000000000000000000000000007");
  SessionId back{};
  cr_assert(cr::node::from_hex(text, &back) && back == id);
  for (const std::string& bad : {text + "0", text.substr(1), std::string(32, 'g'),
                                 "AB" + text.substr(2), std::string(), text.substr(1) + " "}) {
    cr_assert_not(cr::node::from_hex(bad, &back), "%s", bad.c_str());
  }
  using cr::node::is_newer;
  cr_assert(is_newer({2, 0, 0}, {1, 9, 9}) && is_newer({1, 2, 0}, {1, 1, 9}) &&
            is_newer({1, 1, 2}, {1, 1, 1}));
  cr_assert_not(is_newer({1, 1, 1}, {1, 1, 1}));
}

Test(part_store, lists_whole_parts_in_their_order) {
  Store store;
  for (const uint8_t s : {3, 1, 2}) {
    for (const unsigned holder : {2u, 0u, 1u}) {
      for (const uint64_t sequence : {5ul, 4ul}) {
        PartOffer o = offer(s, sequence, holder);
        take_in(store, o, Rows(20, sequence));
      }
    }
  }
  const auto all = store->list();
  cr_assert_eq(all.size(), 18u);
  for (size_t i = 0; i < all.size(); i++) {
    const PartEntry& e = all[i];
    cr_assert_eq(e.session_id[0], 1 + i / 6);
    cr_assert_eq(e.holder, i / 2 % 3);
    cr_assert_eq(e.triple.sequence, 4 + i % 2);
    cr_assert(e.rows == 20 && e.slots == 20 && e.data_parts == 2 && e.uid == 1000);
    cr_assert_gt(e.stored_bytes, 20 * kPageSize);
    cr_assert_str_eq(e.name, "prog");
  }
  const SessionId only = session(2);
  cr_assert_eq(store->list(&only).size(), 6u);
  const SessionId none = session(8);
  cr_assert_eq(store->list(&none).size(), 0u);
}

Test(part_store, files_that_are_no_parts_are_left_out) {
  Store store;
  take_in(store, offer(1, 1), Rows(4, 1));
  take_in(store, offer(2, 1), Rows(4, 1));
  const std::string one = store->session_dir(session(1)) + "/";
  const std::string right = one + "part.0.0", two = store->session_dir(session(2)) + "/part.1.0";
  namespace fs = std::filesystem;
  for (const char* name : {"part.00.0", "part.0.2", "part.0.1.new", "part.+0.1", "part.0.0x", "x",
                           "part.64.0", "part.99999999999999999999.0"}) {
    fs::copy_file(right, one + name);
  }
  fs::create_directory(store.dir() + "/sessions/other");
  fs::copy_file(right, store.dir() + "/sessions/other/part.0.0");
  std::vector<std::string> bad;
  cr_assert_eq(store->list(nullptr, &bad).size(), 2u);
  cr_assert_eq(bad.size(), 1u, "that of the directory that is no session's");

  fs::copy_file(right, one + "part.1.0");  // another holder's name
  fs::copy_file(right, two);               // ... and session's
  fs::resize_file(one + "part.0.0x", 100);
  fs::rename(one + "part.0.0x", one + "part.2.0");
  const auto receiver = begin(store, offer(3, 1));  // under way
  bad.clear();
  cr_assert_eq(store->list(nullptr, &bad).size(), 2u);
  cr_assert_eq(bad.size(), 4u);
  cr_assert(!has(store, offer(1, 1, 1)) && !has(store, offer(2, 1, 1)));
}

Test(part_store, removes_a_session_of_its_user) {
  Store store;
  take_in(store, offer(1, 1), Rows(4, 1));
  take_in(store, offer(1, 2), Rows(4, 1));
  take_in(store, offer(2, 1), Rows(4, 1));
  const auto removed = store->remove(session(1), 1001);
  cr_assert(!removed && removed.error().code == Errc::kPermission);
  cr_assert_eq(store->list().size(), 3u);
  const auto own = store->remove(session(1), 1000);
  cr_assert(own.has_value() && *own == 2);
  cr_assert_eq(store->list().size(), 1u);
  cr_assert_neq(access(store->session_dir(session(1)).c_str(), F_OK), 0);
  const auto by_root = store->remove(session(2), 0);
  cr_assert(by_root.has_value() && *by_root == 1);
  const auto again = store->remove(session(2), 1000);
  cr_assert(again.has_value() && *again == 0);
  take_in(store, offer(1, 1), Rows(4, 1));
}

Test(part_store, another_users_session_is_not_overwritten) {
  Store store;
  take_in(store, offer(1, 1), Rows(4, 1));
  PartOffer o = offer(1, 2);
  o.uid = 1001;
  auto refused = PartReceiver::begin(*store, o);
  cr_assert(!refused && refused.error().code == Errc::kPermission);
  expect_rows(store, offer(1, 1), Rows(4, 1));
  o.uid = 0;
  take_in(store, o, Rows(4, 2));
}

Test(part_store, a_directory_of_others_is_refused) {
  Store store;
  std::string text;
  chmod((store.dir() + "/sessions").c_str(), 0777);
  const auto opened = PartStore::open(store.dir(), true, &text);
  cr_assert(!opened && opened.error().code == Errc::kPermission);
  cr_assert(text.find("--store") != std::string::npos, "%s", text.c_str());
  const auto missing = PartStore::open(store.root() + "/no/such", false, &text);
  cr_assert(!missing && missing.error().sys_errno == ENOENT);
  cr_assert(text.find("/no/such") != std::string::npos, "%s", text.c_str());
}

Test(part_store, the_base_is_used_and_what_is_to_be_kept_is) {
  Store store;
  Rows rows(30, 1);
  cr_assert_not(take_in(store, offer(1, 1), rows));
  PartOffer o = offer(1, 2);
  o.base = o.keep = offer(1, 1).triple;
  auto receiver = begin(store, o);
  cr_assert(receiver->has_base());
  cr_assert_eq(Chunk().add(3, 0).add(5, 9).give_to(*receiver), Errc::kOk);
  cr_assert_eq(finish(*receiver, 2, 30), Errc::kOk);
  receiver.reset();
  rows[3] = 0;
  rows[5] = 9;
  expect_rows(store, o, rows);
  expect_rows(store, offer(1, 1), Rows(30, 1));
  // Another way of protection: the base is of no use.
  o = offer(1, 3);
  o.base = offer(1, 2).triple;
  o.kind = cr::format::kProtectRs;
  cr_assert_not(begin(store, o)->has_base());
  cr_assert(has(store, offer(1, 2)), "the newest stays");
  // A part of the same checkpoint with other slots is another one.
  o.kind = offer(1, 3).kind;
  o.base_layout++;
  cr_assert_not(begin(store, o)->has_base());
  cr_assert(has(store, offer(1, 2)), "the newest stays");
  take_in(store, offer(1, 3), rows);
  // Base and what is to be kept are two: then there is no base.
  o = offer(1, 4);
  o.base = offer(1, 3).triple;
  o.keep = offer(1, 2).triple;
  receiver = begin(store, o);
  cr_assert_not(receiver->has_base());
  receiver.reset();
  cr_assert(has(store, offer(1, 2)) && !has(store, offer(1, 3)));
  // Nobody knows what is to be kept: the older one goes.
  take_in(store, offer(1, 5), rows);
  begin(store, offer(1, 6)).reset();
  cr_assert(has(store, offer(1, 5)) && !has(store, offer(1, 2)));
}

// Whichever of them holds it already, or both do.
Test(part_store, two_transfers_without_a_base_renew_both_buffers) {
  for (int before = 0; before < 3; before++) {
    Store store;
    const Rows rows(30, 1);
    PartOffer o = offer(1, 1);
    for (int i = 0; i < before; i++) {
      take_in(store, o, rows);
      o.keep = o.triple;
    }
    const auto path = [&](int buffer) {
      return cr::store::part_path(store->session_dir(session(1)), 0, buffer);
    };
    for (int buffer = 0; buffer < before; buffer++) {
      const int fd = open(path(buffer).c_str(), O_WRONLY);
      cr_assert_eq(pwrite(fd, "?", 1, cr::format::kPartRowsOff + 7 * kPageSize + 100), 1);
      close(fd);
      cr_assert_eq(cr::store::damaged_rows(*cr::store::load_part(path(buffer)).part)->size(), 1);
    }
    for (int i = 0; i < 2; i++) {
      cr_assert_not(take_in(store, o, rows));
      o.keep = o.triple;
    }
    for (int buffer = 0; buffer < 2; buffer++) {
      const auto state = cr::store::load_part(path(buffer));
      cr_assert(state.part != nullptr, "%d: buffer %d is not there", before, buffer);
      cr_assert(cr::store::damaged_rows(*state.part)->empty(), "%d: buffer %d", before, buffer);
    }
  }
}

// Two programs run: one where the session was brought back, one behind a cut cable.
Test(part_store, parts_of_a_later_run_are_not_written_over) {
  Store store;
  take_in(store, offer(1, 7), Rows(4, 1));
  PartOffer later = offer(1, 8);
  later.triple.epoch = 2;
  take_in(store, later, Rows(4, 2));
  const auto refused = [&](PartOffer o) {
    const auto receiver = PartReceiver::begin(*store, o);
    return !receiver && receiver.error().code == Errc::kAlready;
  };
  PartOffer o = offer(1, 9);
  cr_assert(refused(o));
  o.keep = offer(1, 7).triple;  // which is in the other buffer
  cr_assert(refused(o));
  o.triple.epoch = 2;
  o.keep = {};
  cr_assert_not(refused(o));
  cr_assert(has(store, later) && !has(store, offer(1, 7)));
  // Who repairs knows that nothing whole can be made of the later one.
  o = offer(1, 7);
  o.newest = later.triple;
  cr_assert_not(refused(o));
}

Test(part_store, the_newest_part_says_who_the_holders_are) {
  Store store;
  cr_assert(store->holders_of(session(1)).empty());
  take_in(store, offer(1, 7), Rows(4, 1));
  const auto names = store->holders_of(session(1));
  cr_assert_eq(names.size(), 3u);
  const auto expected = cr_test::SyntheticPart().holders;
  for (size_t i = 0; i < 3; i++) cr_assert_str_eq(names[i].c_str(), expected[i].node);
}

// Then the next checkpoint writes only what it has of its own.
Test(part_store, the_other_buffer_is_prepared_once) {
  Store store;
  Rows rows(600, 1);
  rows[300] = 0;
  take_in(store, offer(1, 1), rows);
  cr_assert(store->prepare_other(session(1), 0).has_value());
  cr_assert_eq(store->list().size(), 2u);
  for (int buffer = 0; buffer < 2; buffer++) {
    const auto s =
        cr::store::load_part(cr::store::part_path(store->session_dir(session(1)), 0, buffer));
    cr_assert(s.part && cr::node::operator==(s.part->view.header.triple, offer(1, 1).triple));
    cr_assert(cr::store::damaged_rows(*s.part)->empty());
    cr_assert(s.part->view.checks[300] == 0 && s.part->view.checks[599] != 0);
  }
  PartOffer o = offer(1, 2);
  o.base = o.keep = offer(1, 1).triple;
  const auto receiver = begin(store, o);
  cr_assert(receiver->has_base());
  cr_assert_eq(Chunk().add(5, 9).give_to(*receiver), Errc::kOk);
  cr_assert_eq(finish(*receiver, 2, rows.size()), Errc::kOk);
  cr_assert_leq(receiver->bytes_written(), 4 * kPageSize);
  expect_rows(store, offer(1, 1), rows);
  rows[5] = 9;
  expect_rows(store, o, rows);
  // Both have something now.
  cr_assert(store->prepare_other(session(1), 0).has_value());
  cr_assert(has(store, offer(1, 1)) && has(store, o));
}

Test(part_store, what_cannot_be_prepared_is_left_alone) {
  Store store;
  cr_assert(store->prepare_other(session(1), 0).has_value(), "there is no such part");
  take_in(store, offer(1, 1), Rows(30, 1));
  const std::string dir = store->session_dir(session(1));
  const std::string path = cr::store::part_path(dir, 0, 0), other = cr::store::part_path(dir, 0, 1);
  {
    const auto receiver = begin(store, offer(1, 2));
    cr_assert(store->prepare_other(session(1), 0).has_value(), "another has it");
  }
  cr_assert_eq(store->list().size(), 1u);
  cr_assert_eq(unlink(other.c_str()), 0);  // what that one began
  const int fd = open(path.c_str(), O_WRONLY);
  cr_assert_eq(pwrite(fd, "?", 1, cr::format::kPartRowsOff + 7 * kPageSize + 100), 1);
  close(fd);
  const auto damaged = store->prepare_other(session(1), 0);
  cr_assert(!damaged && damaged.error().code == Errc::kDamaged);
  cr_assert(!std::filesystem::exists(other), "what is not whole takes no room");
  store->leave();
  take_in(store, offer(2, 1), Rows(30, 1));
  cr_assert(store->prepare_other(session(2), 0).has_value());
  cr_assert_eq(store->list().size(), 2u, "there is no time for it any more");
}

Test(part_store, a_part_is_taken_in_by_one_at_a_time) {
  Store store;
  auto receiver = begin(store, offer(1, 1));
  auto second = PartReceiver::begin(*store, offer(1, 2));
  cr_assert(!second && second.error().code == Errc::kBusy);
  begin(store, offer(1, 2, 1));
  begin(store, offer(2, 2));
  receiver.reset();
  take_in(store, offer(1, 2), Rows(4, 1));
}

// The last that a transfer has left goes a moment after it was given up.
Test(part_store, a_part_is_handed_over_from_one_to_the_next) {
  Store store;
  auto receiver = begin(store, offer(1, 1));
  std::thread letting_go([&] {
    usleep(50000);
    receiver.reset();
  });
  const auto second = PartReceiver::begin(*store, offer(1, 2));
  letting_go.join();
  cr_assert(second.has_value());
}

Test(part_store, what_was_overwritten_is_not_taken_for_damage) {
  Store store;
  take_in(store, offer(1, 1), Rows(200, 1));
  const auto old = store->load(session(1), 0, {1, 1, 1}, layout());
  cr_assert(old.has_value());
  std::vector<uint8_t> pages(200 * kPageSize);
  uint64_t row = 0;
  cr_assert(cr::node::read_current_rows(**old, 0, 200, pages.data(), &row).has_value());
  take_in(store, offer(1, 2), Rows(200, 2));
  cr_assert(cr::node::read_current_rows(**old, 0, 200, pages.data(), &row).has_value(),
            "the other buffer");
  const auto receiver = begin(store, offer(1, 3));
  cr_assert_eq(cr::node::read_current_rows(**old, 0, 200, pages.data(), &row).error().code,
               Errc::kNotFound, "its buffer is being written");
  finish(*receiver, 3, 200);
  cr_assert_eq(cr::node::read_current_rows(**old, 0, 200, pages.data(), &row).error().code,
               Errc::kNotFound, "its buffer has another part");
  cr_assert_eq(store->load(session(1), 0, {1, 1, 1}, layout()).error().code, Errc::kNotFound);
}

// Tools read the store in threads of their own.
Test(part_store, parts_are_read_beside_who_writes_them, .timeout = 120) {
  Store store;
  const auto rows_of = [](uint64_t sequence) {
    return Rows(20 + sequence * 37 % 230, sequence % 250 + 1);
  };
  for (const uint64_t sequence : {1, 2}) take_in(store, offer(1, sequence), rows_of(sequence));
  std::atomic<bool> end = false;
  std::thread writer([&] {
    for (uint64_t sequence = 3; !end; sequence++) {
      PartOffer o = offer(1, sequence);
      if (sequence % 3 != 0) o.base = {1, sequence - 1, sequence - 1};
      take_in(store, o, rows_of(sequence));
    }
  });
  unsigned whole = 0, overwritten = 0;
  uint64_t newest = 0;
  std::vector<uint8_t> pages(256 * kPageSize);
  while (whole < 300 || overwritten < 30 || newest < 300) {
    std::vector<std::string> bad;
    for (const PartEntry& e : store->list(nullptr, &bad)) {
      newest = std::max(newest, e.triple.sequence);
      const auto part = store->load(session(1), 0, e.triple, e.layout);
      uint64_t row = 0;
      const auto read = part ? cr::node::read_current_rows(**part, 0, e.rows, pages.data(), &row)
                             : cr::Result<void>(part.error());
      if (!read) {
        cr_assert_eq(read.error().code, Errc::kNotFound, "row %lu: %s", row, read.error().what);
        overwritten++;
        continue;
      }
      const Rows rows = rows_of(e.triple.sequence);
      cr_assert_eq(e.rows, rows.size());
      for (size_t i = 0; i < rows.size(); i++) {
        cr_assert_eq(pages[i * kPageSize + 99], rows[i], "row %zu of %lu", i, e.triple.sequence);
      }
      whole++;
    }
    cr_assert(bad.empty(), "%s", bad.empty() ? "" : bad[0].c_str());
  }
  end = true;
  writer.join();
}

Test(part_store, impossible_offers_are_refused) {
  Store store;
  cr_expect_eq(begin_error(store, [](PartOffer&) {}), Errc::kOk);
  cr_expect_eq(begin_error(store, [](PartOffer& o) { o.kind = 4; }), Errc::kDamaged);
  cr_expect_eq(begin_error(store, [](PartOffer& o) { o.data_parts = 0; }), Errc::kDamaged);
  cr_expect_eq(begin_error(store, [](PartOffer& o) { o.parity_parts = 63; }), Errc::kDamaged);
  cr_expect_eq(begin_error(store, [](PartOffer& o) { o.parity_parts = ~0u; }), Errc::kDamaged);
  cr_expect_eq(begin_error(store, [](PartOffer& o) { o.holder = 3; }), Errc::kDamaged);
  cr_expect_eq(begin_error(store, [](PartOffer& o) { memset(o.name, 'x', 64); }), Errc::kDamaged);
  cr_expect_eq(begin_error(store, [](PartOffer& o) { memset(o.origin, 'x', 64); }), Errc::kDamaged);
  for (const uint64_t rows : {1ul << 39, 1ul << 41, ~0ul}) {
    cr_expect_eq(begin_error(store, [=](PartOffer& o) { o.rows = rows; }), Errc::kNoMemory);
  }
}

Test(part_store, chunks_that_break_a_rule_are_refused) {
  // Far less than a wrong row number would take.
  rlimit limit{uint64_t{4} << 30, uint64_t{4} << 30};
#ifndef __SANITIZE_ADDRESS__
  cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
#endif
  Store store;
  take_in(store, offer(1, 1), Rows(20, 1));
  uint64_t sequence = 2;
  const auto refused = [&](const char* what, const Chunk& chunk) {
    PartOffer o = offer(1, sequence++);
    o.base = o.keep = offer(1, 1).triple;
    const auto receiver = begin(store, o);
    cr_assert_eq(Chunk().add(4, 3).add(6, 0).give_to(*receiver), Errc::kOk);
    cr_expect_eq(chunk.give_to(*receiver), Errc::kDamaged, "%s", what);
    cr_expect_not(has(store, o));
    expect_rows(store, offer(1, 1), Rows(20, 1));
  };
  (void)limit;
  refused("not in order", Chunk().add(9, 1).add(8, 1));
  refused("one row twice", Chunk().add(9, 1).add(9, 1));
  refused("one row of zeros twice", Chunk().add(9, 0).add(9, 0));
  for (const uint64_t row : {uint64_t{65536 + 80}, uint64_t{1} << 31, (uint64_t{1} << 40) - 1,
                             uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}}) {
    refused("a row far out", Chunk().add(row, 1));
    refused("a row of zeros far out", Chunk().add(3, 0).add(row, 0));
  }
  refused("after the last number", Chunk().add(~uint64_t{0}, 0).add(0, 0));
  Chunk chunk = Chunk().add(0, 1).add(1, 1);
  chunk.bytes.resize(chunk.bytes.size() - 1);
  refused("half a page is missing", chunk);
  chunk.bytes.resize(cr::format::kChunkPagesOff);
  refused("all pages are missing", chunk);
  chunk = Chunk().add(0, 0);
  chunk.bytes.pop_back();
  refused("shorter than its table", chunk);
  chunk.bytes.clear();
  refused("empty", chunk);
  chunk = Chunk();
  chunk.rows = 257;
  chunk.bytes.resize(cr::format::kChunkBytes * 2);
  refused("too many rows", chunk);
  chunk.rows = ~0u;
  refused("far too many rows", chunk);
}

Test(part_store, descriptions_that_break_a_rule_are_refused) {
  Store store;
  const auto receiver = begin(store, offer(1, 1));
  const auto d = cr_test::SyntheticPart().description();
  cr_expect_eq(receiver->add_description(1, d).error().code, Errc::kDamaged, "a hole");
  cr_expect_eq(receiver->add_description(~uint64_t{0}, d).error().code, Errc::kDamaged);
  cr_expect(receiver->add_description(0, d).has_value());
  cr_expect_eq(receiver->add_description(d.size() + 1, d).error().code, Errc::kDamaged);
  // In pieces, and one of them again.
  const std::span<const uint8_t> all(d);
  cr_expect(receiver->add_description(0, all.first(100)).has_value());
  cr_expect(receiver->add_description(100, all.subspan(100, 50)).has_value());
  cr_expect(receiver->add_description(100, all.subspan(100)).has_value());
  cr_expect(receiver->commit(commit_of(1, 4, d)).has_value());
}

Test(part_store, commits_that_break_a_rule_are_refused) {
  Store store;
  take_in(store, offer(1, 1), Rows(20, 1));
  uint64_t sequence = 2;
  using Change = std::function<void(cr_test::SyntheticPart&, PartCommit&)>;
  const auto verdict = [&](const Change& change) {
    PartOffer o = offer(1, sequence++);
    o.base = o.keep = offer(1, 1).triple;
    const auto receiver = begin(store, o);
    cr_test::SyntheticPart part;
    PartCommit c = commit_of(o.triple.sequence, 20, {});
    change(part, c);
    const auto d = part.description();
    if (c.description_bytes == 0) c.description_bytes = d.size();
    cr_assert(receiver->add_description(0, d).has_value());
    const auto done = receiver->commit(c);
    cr_expect_eq(has(store, o), done.has_value());
    expect_rows(store, offer(1, 1), Rows(20, 1));
    return done.error().code;
  };
  using Part = cr_test::SyntheticPart;
  cr_expect_eq(verdict([](Part&, PartCommit&) {}), Errc::kOk);
  for (const uint64_t rows : {uint64_t{65536 + 81}, uint64_t{1} << 39, ~uint64_t{0}}) {
    cr_expect_eq(verdict([=](Part&, PartCommit& c) { c.rows = rows; }), Errc::kDamaged);
    cr_expect_eq(verdict([=](Part&, PartCommit& c) { c.slots = c.rows = rows; }), Errc::kDamaged);
    cr_expect_eq(verdict([=](Part&, PartCommit& c) { c.slots = rows; }), Errc::kDamaged);
  }
  cr_expect_eq(verdict([](Part&, PartCommit& c) { c.rows = 15; }), Errc::kDamaged, "too few rows");
  cr_expect_eq(verdict([](Part&, PartCommit& c) { c.triple = {}; }), Errc::kDamaged);
  cr_expect_eq(verdict([](Part&, PartCommit& c) { c.sent_rows = 1; }), Errc::kDamaged,
               "one is lost");
  cr_expect_eq(verdict([](Part&, PartCommit& c) { c.description_bytes = 64; }), Errc::kDamaged);
  cr_expect_eq(verdict([](Part& p, PartCommit&) { p.holders.resize(2); }), Errc::kDamaged);
  cr_expect_eq(verdict([](Part& p, PartCommit&) { p.extents[0].slot = 20; }), Errc::kDamaged);
  cr_expect_eq(verdict([](Part& p, PartCommit&) { p.volumes[0].member[0] = '.'; }), Errc::kDamaged);
  const auto receiver = begin(store, offer(2, 1));
  cr_expect_eq(receiver->commit(commit_of(1, 4, {})).error().code, Errc::kDamaged, "undescribed");
}

Test(part_store, drops_what_is_not_newer) {
  Store store;
  take_in(store, offer(1, 7), Rows(4, 2));
  take_in(store, offer(1, 8), Rows(4, 3));
  take_in(store, offer(1, 8, 1), Rows(4, 4));
  cr_assert_eq(*store->drop(session(1), 0, {1, 6, 6}), 0u, "both are newer");
  cr_assert_eq(*store->drop(session(1), 0, {1, 7, 7}), 1u);
  cr_assert_eq(store->list().size(), 2u);
  cr_assert_eq(*store->drop(session(1), 0, {1, 8, 8}), 1u);
  const auto left = store->list();
  cr_assert(left.size() == 1 && left[0].holder == 1, "the other holder's part stays");
  cr_assert_eq(*store->drop(session(1), 1, {1, 9, 9}), 1u);
  cr_assert(!std::filesystem::exists(store->session_dir(session(1))), "an empty directory goes");
  cr_assert_eq(*store->drop(session(2), 0, {1, 9, 9}), 0u);
  cr_assert_eq(*store->drop(session(1), 64, {1, 9, 9}), 0u);
}

Test(part_store, a_part_on_its_way_in_is_not_dropped) {
  Store store;
  take_in(store, offer(1, 7), Rows(4, 2));
  {
    const auto receiver = begin(store, offer(1, 8));
    cr_assert_eq(*store->drop(session(1), 0, {1, 9, 9}), 0u);
  }
  cr_assert_eq(store->list().size(), 1u);
  // What was left half-written goes with it, and alone stays as the other buffer's room.
  cr_assert_eq(*store->drop(session(1), 0, {1, 6, 6}), 0u);
  cr_assert_eq(*store->drop(session(1), 0, {1, 7, 7}), 2u);
}

Test(part_store, a_source_outlives_dropped_parts) {
  Store store;
  take_in(store, offer(1, 7), Rows(4, 2));
  cr_assert(store->note_source(session(1), "/home/u/x.image").has_value());
  cr_assert_eq(*store->drop(session(1), 0, {1, 7, 7}), 1u);
  cr_assert_str_eq(store->source_of(session(1)).c_str(), "/home/u/x.image");
}

// What this process has read by system calls so far.
uint64_t bytes_read() {
  FILE* file = fopen("/proc/self/io", "r");
  cr_assert_not_null(file);
  unsigned long bytes = 0;
  cr_assert_eq(fscanf(file, "rchar: %lu", &bytes), 1);
  fclose(file);
  return bytes;
}

Test(part_store, a_part_that_nobody_has_written_is_not_read_again) {
  Store store;
  const PartOffer o = offer(3, 1);
  take_in(store, o, Rows(40, 7));
  const auto cost = [&](std::vector<PartEntry>* ret) {
    const uint64_t before = bytes_read();
    *ret = store->list();
    return bytes_read() - before;
  };
  std::vector<PartEntry> first, again;
  const uint64_t all = cost(&first), header = cost(&again);
  cr_assert_eq(first.size(), 1u);
  cr_assert_eq(again.size(), 1u);
  cr_assert_eq(memcmp(&first[0], &again[0], sizeof(PartEntry)), 0);
  cr_assert_lt(header + 1000, all, "%lu bytes, then %lu", all, header);
}

Test(part_store, a_listing_tells_what_was_written_since_the_last_one) {
  Store store;
  take_in(store, offer(3, 1), Rows(40, 7));
  cr_assert_eq(store->list().size(), 1u);
  // The other buffer, then the first one again: the same path has another part.
  for (uint64_t sequence = 2; sequence <= 4; sequence++) {
    take_in(store, offer(3, sequence), Rows(40, sequence));
    uint64_t newest = 0;
    for (const PartEntry& e : store->list()) newest = std::max(newest, e.triple.sequence);
    cr_assert_eq(newest, sequence);
  }
  // One that is being taken in counts no more than before.
  const size_t whole = store->list().size();
  auto receiver = begin(store, offer(3, 5));
  cr_assert_eq(Chunk().add(0, 9).give_to(*receiver), Errc::kOk);
  for (const PartEntry& e : store->list()) cr_assert_lt(e.triple.sequence, 5u);
  cr_assert_lt(store->list().size(), whole + 1);
  receiver.reset();
  // Damage of what a listing reads, done by a write.
  for (const auto& file : std::filesystem::directory_iterator(store->session_dir(session(3)))) {
    const int fd = open(file.path().c_str(), O_RDWR | O_CLOEXEC);
    const auto size = static_cast<off_t>(file.file_size());
    uint8_t byte = 0;
    cr_assert_eq(pread(fd, &byte, 1, size - 100), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, size - 100), 1);
    close(fd);
  }
  std::vector<std::string> bad;
  cr_assert_eq(store->list(nullptr, &bad).size(), 0u, "a damaged part is listed");
  cr_assert_gt(bad.size(), 0u);
}

Test(part_store, a_base_that_could_not_be_read_is_none_until_it_is_written_over) {
  Store store;
  const Rows rows(40, 3);
  take_in(store, offer(1, 1), rows);
  PartOffer next = offer(1, 2);
  next.base = next.keep = {1, 1, 1};
  const std::string path = cr::store::part_path(store->session_dir(session(1)), 0, 0);
  std::stringstream whole;
  whole << std::ifstream(path, std::ios::binary).rdbuf();
  {
    const auto receiver = begin(store, next);
    cr_assert(receiver->has_base());
    cr_assert_eq(truncate(path.c_str(), 3 * kPageSize), 0);
    cr_assert_eq(finish(*receiver, 2, rows.size()), Errc::kDamaged);
  }
  std::ofstream(path, std::ios::binary) << whole.str();
  expect_rows(store, offer(1, 1), rows);
  cr_assert_not(take_in(store, next, rows), "all of it has to come");
  expect_rows(store, offer(1, 1), rows);
  PartOffer third = offer(1, 3);
  third.base = third.keep = {1, 2, 2};
  cr_assert(take_in(store, third, rows));
  PartOffer fourth = offer(1, 4);
  fourth.base = fourth.keep = {1, 3, 3};
  cr_assert(take_in(store, fourth, rows), "that buffer was written over");
  expect_rows(store, fourth, rows);
}
