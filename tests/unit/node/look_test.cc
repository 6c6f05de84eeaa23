// SPDX-License-Identifier: MIT
// look_test.cc - what a node finds when it looks at all nodes' parts.
// Invariant under test: of each session one node alone finds what there is to be done; a part is
// found stale only if all parts of a checkpoint not older are elsewhere.
#include "node/look.h"

#include <criterion/criterion.h>
#include <string.h>

#include <algorithm>

#include "node/placement.h"

namespace {

using namespace cr::node;
using cr::format::PartEntry;
using cr::format::Triple;

SessionId session(uint8_t n) {
  SessionId id{};
  id[3] = n;
  return id;
}

// Part `holder` of xor:3 on the node.
FoundPart part(const char* node, unsigned holder, uint64_t sequence, const char* origin = "a",
               uint64_t layout = 1) {
  FoundPart p;
  p.node = node;
  p.entry = {};
  memcpy(p.entry.session_id, session(1).data(), 16);
  p.entry.triple = {1, sequence, sequence};
  p.entry.kind = cr::format::kProtectXor;
  p.entry.data_parts = 2;
  p.entry.parity_parts = 1;
  p.entry.holder = holder;
  p.entry.layout = layout;
  memcpy(p.entry.origin, origin, strlen(origin));
  return p;
}

Surroundings around(const char* own, const char* draining = "", const char* down = "") {
  Surroundings s;
  s.own = own;
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    Member m;
    m.name = name;
    if (strchr(draining, name[0]) != nullptr) m.state = NodeState::kDraining;
    if (strchr(down, name[0]) != nullptr) m.state = NodeState::kDown;
    s.members.push_back(m);
  }
  return s;
}

std::string words(const std::vector<StalePart>& stale) {
  std::vector<std::string> all;
  for (const StalePart& s : stale) {
    all.push_back(s.node + std::to_string(s.drop.holder) +
                  "<=" + std::to_string(s.drop.triple.sequence));
  }
  std::ranges::sort(all);
  std::string text;
  for (const std::string& one : all) text += (text.empty() ? "" : " ") + one;
  return text;
}

std::string index_of(const Surroundings& s) { return index_node(s.members, session(1)); }

}  // namespace

Test(look, nothing_to_do) {
  const LookResult r =
      look({part("a", 0, 7), part("b", 1, 7), part("c", 2, 7), part("a", 0, 6)}, around("a"));
  cr_assert(r.lacking.empty() && r.displaced.empty() && r.stale.empty());
}

Test(look, the_node_where_it_ran_sees_to_what_is_missing) {
  const std::vector<FoundPart> parts = {part("a", 0, 7), part("b", 1, 7)};
  cr_assert_eq(look(parts, around("a")).lacking.size(), 1u);
  cr_assert(look(parts, around("b")).lacking.empty());
  for (const char* own : {"b", "c", "d", "e"}) {
    const Surroundings s = around(own, "", "a");
    const std::vector<FoundPart> left = {part("b", 1, 7), part("c", 2, 7)};
    cr_assert_eq(look(left, s).lacking.size(), index_of(s) == own ? 1u : 0u, "%s", own);
  }
}

Test(look, others_that_see_to_it_are_left_alone) {
  const std::vector<FoundPart> parts = {part("a", 0, 7), part("b", 1, 7)};
  Surroundings s = around("a");
  s.elsewhere.insert(session(1));
  cr_assert(look(parts, s).lacking.empty());
  s = around("a");
  s.here.insert(session(1));
  const LookResult r = look(parts, s);
  cr_assert(r.lacking.empty() && r.of_here.size() == 2);
}

Test(look, parts_on_a_drained_node_have_to_move) {
  const std::vector<FoundPart> parts = {part("a", 0, 7), part("b", 1, 7), part("c", 2, 7)};
  LookResult r = look(parts, around("a", "c"));
  cr_assert(r.displaced.size() == 1 && r.lacking.empty() && r.stale.empty());
  // Nor is the session's own node asked if it is drained itself.
  for (const char* own : {"a", "b", "c", "d", "e"}) {
    const Surroundings s = around(own, "a");
    cr_assert_eq(look(parts, s).displaced.size(), index_of(s) == own ? 1u : 0u, "%s", own);
  }
  r = look(parts, around("a", "c", "de"));
  cr_assert(r.displaced.empty() && r.lacking.empty(), "there is no node for it");
}

Test(look, a_drained_node_that_is_away_is_not_waited_for) {
  const std::vector<FoundPart> parts = {part("a", 0, 7), part("b", 1, 7)};
  Surroundings s = around("a", "", "c");
  cr_assert_eq(look(parts, s).lacking.size(), 1u);
  s.only_drained_away = true;
  cr_assert(look(parts, s).lacking.empty() && look(parts, s).displaced.size() == 1);
}

Test(look, what_cannot_be_had_is_not_mended) {
  const LookResult r = look({part("a", 0, 7)}, around("a"));
  cr_assert(r.lacking.empty() && r.displaced.empty());
}

Test(look, parts_that_are_elsewhere_are_stale) {
  std::vector<FoundPart> parts = {part("a", 0, 9), part("b", 1, 9), part("c", 2, 9),
                                  part("a", 0, 8), part("d", 2, 8), part("d", 2, 7)};
  cr_expect(words(look(parts, around("a")).stale) == "d2<=9");
  // Of the same checkpoint, on a drained node.
  parts = {part("a", 0, 9), part("b", 1, 9), part("c", 2, 9), part("d", 2, 9)};
  cr_expect(words(look(parts, around("a", "d")).stale) == "d2<=9");
  cr_expect(words(look(parts, around("a", "c")).stale) == "c2<=9");
  // In service both: one of them stays.
  const std::string one = words(look(parts, around("a")).stale);
  cr_expect(one == "c2<=9" || one == "d2<=9", "%s", one.c_str());
  // A node that is away keeps its parts until it can be asked.
  parts = {part("a", 0, 9), part("b", 1, 9), part("c", 2, 9), part("c", 1, 9)};
  cr_expect(words(look(parts, around("a")).stale) == "c1<=9");
}

Test(look, nothing_is_stale_while_a_part_is_missing) {
  std::vector<FoundPart> parts = {part("a", 0, 9), part("b", 1, 9), part("d", 2, 8),
                                  part("a", 0, 8), part("b", 1, 8)};
  cr_expect(look(parts, around("a")).stale.empty() ||
                words(look(parts, around("a")).stale).find("d2") == std::string::npos,
            "checkpoint 8 is the newest with all its parts, and d has one");
  parts = {part("a", 0, 9), part("b", 1, 9), part("c", 2, 9, "a", 2), part("d", 2, 8)};
  cr_expect(look(parts, around("a")).stale.empty(), "the parts of 9 do not fit together");
  parts = {part("a", 0, 9), part("a", 1, 9), part("a", 2, 9), part("d", 2, 8)};
  cr_expect(look(parts, around("a")).stale.empty(), "all on one node is not as it should be");
  parts = {part("a", 0, 7), part("b", 1, 7), part("c", 2, 7), part("d", 2, 8)};
  cr_expect(look(parts, around("a")).stale.empty(), "a newer part is not touched");
}

Test(look, stale_parts_of_a_session_that_runs_here) {
  const std::vector<FoundPart> parts = {part("a", 0, 9), part("b", 1, 9), part("c", 2, 9),
                                        part("d", 2, 8), part("b", 2, 7), part("d", 1, 10)};
  const std::vector<std::string> holders = {"a", "b", "c"};
  cr_expect(words(stale_of_running(parts, session(1), {1, 9, 9}, holders)) == "b2<=9 d2<=9");
  cr_expect(stale_of_running(parts, session(2), {1, 9, 9}, holders).empty());
  const std::vector<std::string> fewer = {"a"};  // it is protected otherwise now
  cr_expect(words(stale_of_running(parts, session(1), {1, 9, 9}, fewer)) ==
            "b1<=9 b2<=9 c2<=9 d2<=9");
}
