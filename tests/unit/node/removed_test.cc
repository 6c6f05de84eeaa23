// SPDX-License-Identifier: MIT
// removed_test.cc - what was removed is remembered, and covers what is not newer; so many are kept.
#include "node/removed.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "format/removed_reader.h"
#include "node/look.h"

namespace {

using cr::format::Triple;
using cr::node::is_none;
using cr::node::RemovedSessions;
using cr::node::SessionId;

SessionId session(uint32_t n) {
  SessionId id{};
  memcpy(id.data(), &n, sizeof(n));
  return id;
}

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/cr-removed-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    path_ = name;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string file() const { return path_ + "/removed"; }
  const std::string& path() const { return path_; }
  std::string said;

 private:
  std::string path_;
};

}  // namespace

Test(removed_sessions, cover_what_is_not_newer) {
  Directory d;
  {
    RemovedSessions removed(d.path(), true, &d.said);
    cr_assert(removed.note(session(1), {2, 7, 9}).has_value());
    cr_assert(removed.note(session(1), {1, 99, 99}).has_value(), "older");
    cr_assert(removed.note(session(2), {}).has_value(), "there was no part");
  }
  const RemovedSessions removed(d.path(), true, &d.said);
  for (const Triple t : {Triple{1, 100, 100}, Triple{2, 6, 6}, Triple{2, 7, 9}}) {
    cr_expect(cr::node::operator==(removed.covers(session(1), t), Triple{2, 7, 9}), "%lu.%lu",
              t.epoch, t.sequence);
    cr_expect(is_none(removed.covers(session(2), t)));
  }
  for (const Triple t : {Triple{2, 7, 10}, Triple{2, 8, 8}, Triple{3, 1, 1}}) {
    cr_expect(is_none(removed.covers(session(1), t)), "%lu.%lu", t.epoch, t.sequence);
  }
  cr_assert_str_empty(d.said.c_str());
}

Test(removed_sessions, one_that_is_kept_again_is_forgotten) {
  Directory d;
  {
    RemovedSessions removed(d.path(), true, &d.said);
    for (const uint32_t n : {1, 2}) cr_assert(removed.note(session(n), {1, 5, 5}).has_value());
    cr_assert(removed.forget(session(1)).has_value());
    cr_assert(removed.forget(session(3)).has_value(), "it is not there");
  }
  const RemovedSessions removed(d.path(), true, &d.said);
  cr_assert(is_none(removed.covers(session(1), {1, 5, 5})));
  cr_assert_not(is_none(removed.covers(session(2), {1, 5, 5})));
}

Test(removed_sessions, the_oldest_are_forgotten) {
  Directory d;
  std::vector<cr::format::RemovedRecord> all(cr::format::kMostRemoved);
  for (uint32_t n = 0; n < all.size(); n++) {
    all[n] = {};
    for (unsigned byte = 0; byte < 4; byte++) {
      all[n].session_id[byte] = static_cast<uint8_t>(n >> (24 - 8 * byte));
    }
    all[n].newest = {1, 1, 1};
    all[n].realtime_ns = ~uint64_t{0} / 2 + (n == 77 ? 0 : n + 1);
  }
  cr::format::RemovedHeader h;
  cr::format::seal(&h, all);
  std::ofstream(d.file(), std::ios::binary)
      .write(reinterpret_cast<const char*>(&h), sizeof(h))
      .write(reinterpret_cast<const char*>(all.data()),
             static_cast<std::streamsize>(all.size() * sizeof(all[0])));
  RemovedSessions removed(d.path(), false, &d.said);
  cr_assert_str_empty(d.said.c_str());
  const auto is_there = [&](uint32_t n) {
    return !is_none(removed.covers(cr::node::session_id_of(all[n].session_id), {1, 1, 1}));
  };
  cr_assert(is_there(77));
  cr_assert(removed.note(session(0xffffffff), {1, 1, 1}).has_value());
  cr_assert(!is_there(77) && is_there(76) && is_there(0));
}

Test(removed_sessions, a_damaged_file_is_put_aside_and_that_is_said) {
  Directory d;
  std::ofstream(d.file()) << "CRREMOV\n and more that is no header";
  RemovedSessions removed(d.path(), false, &d.said);
  cr_assert_not_null(strstr(d.said.c_str(), "removed.damaged"));
  cr_assert(std::filesystem::exists(d.file() + ".damaged"));
  cr_assert(removed.note(session(1), {1, 1, 1}).has_value());
}

// Of a session that nobody sees to, what was removed is taken out and may be dropped.
Test(removed_sessions, their_parts_are_dropped_where_nobody_sees_to_them) {
  using namespace cr::node;
  Directory d;
  RemovedSessions removed(d.path(), false, &d.said);
  for (const uint32_t n : {1, 2, 3}) cr_assert(removed.note(session(n), {1, 5, 5}).has_value());
  std::vector<FoundPart> parts;
  for (const uint32_t n : {1, 2, 3, 4}) {
    for (const uint64_t sequence : {4, 5, 6}) {
      FoundPart p{"b", {}};
      memcpy(p.entry.session_id, session(n).data(), 16);
      p.entry.triple = {1, sequence, sequence};
      p.entry.holder = 2;
      parts.push_back(p);
    }
  }
  Surroundings around;
  around.here.insert(session(2));
  around.elsewhere.insert(session(3));
  const auto stale = take_removed(&parts, removed, around);
  cr_assert_eq(parts.size(), 10u, "two of session 1 are taken out");
  cr_assert_eq(stale.size(), 1u, "one message for both");
  cr_assert(stale[0].node == "b" && stale[0].drop.holder == 2);
  cr_assert(stale[0].drop.triple == (Triple{1, 5, 5}));
  cr_assert_eq(memcmp(stale[0].drop.session_id, session(1).data(), 16), 0);
}
