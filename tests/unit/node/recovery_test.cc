// SPDX-License-Identifier: MIT
// recovery_test.cc - which checkpoints can be had from parts, and images made of every set of parts
// that suffices, some of them damaged.
// Invariant under test: from any `data` parts that are whole the image is the checkpoint, page by
// page; from fewer nothing is made, and what is missing is said.
#include "node/recovery.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "node/row_source.h"
#include "store/buffer.h"
#include "tests/unit/node/given_parts.h"
#include "tests/unit/node/written_session.h"

namespace {

using cr::Errc;
using cr::kPageSize;
using cr::node::Available;
using cr::node::available;
using cr::node::Cluster;
using cr::node::FoundPart;
using cr::node::PartReceiver;
using cr::node::RowSource;
using cr::node::SessionId;
using cr::store::Erasure;
using cr::store::Protection;
using cr_test::Pages;
using cr_test::WrittenSession;

FoundPart part(const char* node, uint64_t sequence, unsigned holder, unsigned data = 2,
               unsigned parity = 1) {
  FoundPart p;
  p.node = node;
  p.entry.triple = {1, sequence, sequence};
  p.entry.kind = cr::format::kProtectXor;
  p.entry.data_parts = data;
  p.entry.parity_parts = parity;
  p.entry.holder = holder;
  p.entry.slots = 10;
  p.entry.layout = 5;
  return p;
}

// A session's newest checkpoint, and a store that is given all of its parts.
class Recovery {
 public:
  explicit Recovery(const Protection& p) : protection_(p), source_(make(p)) {
    pages_ = cr_test::full(77);
    pages_[cr_test::kStart + 5 * kPageSize] = 0;
    session_.write({pages_}, 3);
    cr_assert(source_.open(session_.dir()).has_value());
    source_.begin({});
    give_all();
    Cluster::Options o;
    o.members.list.resize(1);
    o.members.list[0].name = "a";
    o.store = &*store;
    std::string text;
    auto opened = Cluster::open(o, &text);
    cr_assert(opened.has_value(), "%s", text.c_str());
    cluster_ = std::move(*opened);
  }

  std::vector<FoundPart> found() { return cluster_->list(&id_); }
  // Only of these holders. The text of what went wrong, "" if the image is right.
  std::string made_of(const std::vector<unsigned>& holders, cr::node::RecoveryResult* ret) {
    std::vector<FoundPart> parts = found();
    std::erase_if(parts, [&](const FoundPart& p) {
      return std::ranges::find(holders, p.entry.holder) == holders.end();
    });
    const std::vector<Available> all = available(parts);
    cr_assert_eq(all.size(), 1u);
    const std::string dir = store.root() + "/image";
    std::string text;
    auto made = cr::node::make_image(*cluster_, all[0], dir, false, {}, &text);
    if (!made) {
      cr_assert_not(std::filesystem::exists(dir), "what was begun was left");
      return text;
    }
    *ret = *made;
    compare(dir);
    std::filesystem::remove_all(dir);
    return "";
  }
  // One bit of a row of that part, of each copy of it.
  void damage(unsigned holder) {
    for (const auto& e : std::filesystem::recursive_directory_iterator(store.dir())) {
      const std::string name = e.path().filename();
      char prefix[16];
      snprintf(prefix, sizeof(prefix), "part.%u.", holder);
      if (!e.is_regular_file() || name.find(prefix) != 0) continue;
      const int fd = open(e.path().c_str(), O_RDWR | O_CLOEXEC);
      std::string all(static_cast<size_t>(e.file_size()), '\0');
      cr_assert_eq(pread(fd, all.data(), all.size(), 0), static_cast<ssize_t>(all.size()));
      const size_t at = all.find(cr_test::content(77 + 20).substr(0, 512));
      if (at != std::string::npos) {
        const char wrong = static_cast<char>(all[at + 3] ^ 4);
        cr_assert_eq(pwrite(fd, &wrong, 1, static_cast<off_t>(at) + 3), 1);
        damaged_++;
      }
      close(fd);
    }
  }
  unsigned damaged() const { return damaged_; }
  unsigned parts() const { return source_.stripe().parts(); }
  unsigned data() const { return source_.stripe().data; }

  cr_test::Store store;

 private:
  static std::unique_ptr<Erasure> make(const Protection& p) {
    auto made = Erasure::make(p);
    cr_assert(made.has_value());
    return std::move(*made);
  }
  void give_all() {
    const std::vector<std::string> names(parts(), "a");
    const auto description = source_.describe(names);
    std::vector<std::unique_ptr<PartReceiver>> receivers;
    for (unsigned h = 0; h < parts(); h++) {
      cr::format::PartOffer o = cr_test::offer(0, 3, h);
      memset(o.session_id, 0, sizeof(o.session_id));
      o.session_id[3] = session_.number;
      memcpy(id_.data(), o.session_id, sizeof(o.session_id));
      o.kind = static_cast<uint32_t>(protection_.kind);
      o.data_parts = protection_.data;
      o.parity_parts = protection_.parity;
      o.rows = source_.rows();
      auto begun = PartReceiver::begin(*store, o);
      cr_assert(begun.has_value(), "%s", begun.error().what);
      receivers.push_back(std::move(*begun));
    }
    for (uint64_t first = 0; first < source_.rows();) {
      RowSource::Unit unit = source_.look_at(first, true);
      source_.read(unit, true);
      for (unsigned h = 0; h < parts(); h++) give_unit(unit, h, *receivers[h]);
      source_.mark_sent(unit);
      first += unit.count;
    }
    for (unsigned h = 0; h < parts(); h++) {
      cr_assert(receivers[h]->add_description(0, description).has_value());
      cr::format::PartCommit c{};
      c.triple = {1, 3, 3};
      c.slots = source_.slots();
      c.rows = source_.rows();
      c.description_bytes = description.size();
      c.image_bytes = source_.image().image_bytes();
      c.sent_rows = receivers[h]->rows_taken();
      const auto done = receivers[h]->commit(c);
      cr_assert(done.has_value(), "%s", done.error().what);
    }
  }
  void give_unit(const RowSource::Unit& unit, unsigned holder, PartReceiver& receiver) {
    cr_test::Chunk chunk;
    for (uint64_t r = 0; r < unit.count; r++) {
      if ((unit.wanted >> r & 1) == 0) continue;
      const auto row = source_.row(unit, r, holder, true);
      if (row) chunk.add_page(unit.first + r, row->check, row->page);
    }
    if (chunk.rows > 0) cr_assert_eq(chunk.give_to(receiver), Errc::kOk);
  }
  void compare(const std::string& dir) const {
    const cr::store::BufferState b = cr::store::load_buffer(dir, 0);
    cr_assert(b.exists && b.image != nullptr, "%s", b.error.what);
    const auto& v = b.image->view;
    cr_assert(v.super.sequence == 3 && v.super.session_id[3] == session_.number);
    uint64_t pages = 0;
    for (const cr::format::ExtentRecord& e : v.extents) {
      for (uint64_t i = 0; i < e.pages && e.slot != cr::format::kSlotZero; i++, pages++) {
        const auto p = pages_.find(e.addr + i * kPageSize);
        cr_assert(p != pages_.end());
        cr_assert_eq(memcmp(v.slot(e.slot + i), cr_test::content(p->second).data(), kPageSize), 0,
                     "page %lx", e.addr + i * kPageSize);
      }
    }
    cr_assert_eq(pages, pages_.size() - 1);  // one is zeros
  }

  const Protection protection_;
  Pages pages_;
  WrittenSession session_;
  RowSource source_;
  SessionId id_{};
  std::unique_ptr<Cluster> cluster_;
  unsigned damaged_ = 0;
};

// All sets of `count` of so many.
std::vector<std::vector<unsigned>> sets_of(unsigned count, unsigned all) {
  std::vector<std::vector<unsigned>> sets;
  for (unsigned mask = 0; mask < 1u << all; mask++) {
    std::vector<unsigned> set;
    for (unsigned i = 0; i < all; i++) {
      if ((mask >> i & 1) != 0) set.push_back(i);
    }
    if (set.size() == count) sets.push_back(set);
  }
  return sets;
}

constexpr Protection kProtections[] = {{Protection::Kind::kReplica, 1, 1},
                                       {Protection::Kind::kXor, 2, 1},
                                       {Protection::Kind::kRs, 3, 2}};

}  // namespace

Test(recovery, parts_of_one_checkpoint_are_found_together) {
  std::vector<FoundPart> parts = {part("a", 4, 0), part("b", 5, 1), part("c", 4, 2),
                                  part("d", 5, 1), part("e", 5, 0)};
  const auto all = available(parts);
  cr_assert_eq(all.size(), 2u);
  cr_assert(all[0].triple.sequence == 5 && all[0].parts() == 2 && all[0].is_whole());
  cr_assert_eq(all[0].holders[1].size(), 2u);
  cr_assert(all[0].words() == "2 of 3 parts, 2 needed; missing: part 2");
  cr_assert(all[1].triple.sequence == 4 && all[1].is_whole());
  const auto few = available({part("a", 4, 2)});
  cr_assert(few.size() == 1 && !few[0].is_whole());
  cr_assert(few[0].words() == "1 of 3 parts, 2 needed; missing: part 0, 1");
}

Test(recovery, parts_that_do_not_fit_together_are_kept_apart) {
  FoundPart other = part("b", 4, 1);
  other.entry.layout = 6;
  FoundPart longer = part("c", 4, 2);
  longer.entry.slots = 11;
  const auto all = available({part("a", 4, 0), other, longer, part("d", 4, 2)});
  cr_assert_eq(all.size(), 3u);
  cr_assert_eq(all[0].parts(), 2u, "the one with most parts comes first");
}

Test(recovery, numbers_that_make_no_sense_are_left_out) {
  FoundPart none = part("a", 4, 0, 0, 1), beyond = part("b", 4, 3),
            many = part("c", 4, 0, 1u << 31), kind = part("d", 4, 0);
  kind.entry.kind = 9;
  cr_assert(available({none, beyond, many, kind}).empty());
}

Test(recovery, an_image_is_made_of_any_parts_that_suffice, .timeout = 240) {
  for (const Protection& p : kProtections) {
    Recovery r(p);
    uint64_t decoded = 0;
    for (unsigned count = r.data(); count <= r.parts(); count++) {
      for (const auto& holders : sets_of(count, r.parts())) {
        cr::node::RecoveryResult result;
        const std::string wrong = r.made_of(holders, &result);
        cr_assert(wrong.empty(), "%s", wrong.c_str());
        cr_assert(result.damaged.empty());
        if (count == r.parts() || r.data() == 1) cr_assert_eq(result.decoded_rows, 0u);
        decoded += result.decoded_rows;
      }
    }
    cr_assert_eq(decoded > 0, r.data() > 1);
  }
}

Test(recovery, too_few_parts_make_nothing, .timeout = 240) {
  for (const Protection& p : kProtections) {
    if (p.data == 1) continue;
    Recovery r(p);
    for (const auto& holders : sets_of(r.data() - 1, r.parts())) {
      cr::node::RecoveryResult result;
      const std::string wrong = r.made_of(holders, &result);
      cr_assert_neq(wrong.find("missing: part"), std::string::npos, "%s", wrong.c_str());
    }
  }
}

Test(recovery, damaged_rows_are_decoded_and_named, .timeout = 240) {
  for (const Protection& p : kProtections) {
    Recovery r(p);
    std::vector<unsigned> all;
    for (unsigned h = 0; h < r.parts(); h++) all.push_back(h);
    unsigned bad = 0;
    while (r.damaged() == 0) {
      cr_assert_lt(bad, r.parts());
      r.damage(bad++);
    }
    bad--;
    cr::node::RecoveryResult result;
    std::string wrong = r.made_of(all, &result);
    cr_assert(wrong.empty(), "%s", wrong.c_str());
    cr_assert_eq(result.damaged.size(), 1u);
    const std::string& named = result.damaged[0];
    cr_assert_neq(named.find("part " + std::to_string(bad) + ", row "), std::string::npos, "%s",
                  named.c_str());
    cr_assert_neq(named.find("checksum"), std::string::npos, "%s", named.c_str());
    // Without the others there is nothing that it could be decoded from.
    std::vector<unsigned> just = {bad};
    for (unsigned h = 0; just.size() < r.data(); h++) {
      if (h != bad) just.push_back(h);
    }
    wrong = r.made_of(just, &result);
    cr_assert_neq(wrong, "", "a damaged row was taken");
    cr_assert_neq(wrong.find("checksum"), std::string::npos, "%s", wrong.c_str());
  }
}
