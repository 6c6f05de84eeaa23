// SPDX-License-Identifier: MIT
// placement_test.cc - who keeps the parts of a session: repeatable, even, and steady when nodes
// come and go.
// Invariant under test: a session's own node is a holder, no node is one twice, no rack has a
// second part while another has none, and a change of the member list moves the parts of that node
// only.
#include "node/placement.h"

#include <criterion/criterion.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/nvheap/random.h"

namespace {

using cr::node::explain;
using cr::node::holders;
using cr::node::index_node;
using cr::node::Member;
using cr::node::NodeState;
using cr::node::Placement;
using cr::node::PlacementRequest;
using cr::node::Purpose;
using cr::node::rebalance;
using cr::node::replace;
using cr::node::weight;
using cr_test::Random;
using Session = std::array<uint8_t, 16>;
using Names = std::vector<std::string>;

Session random_session(Random& random) {
  Session s;
  for (uint8_t& b : s) b = static_cast<uint8_t>(random.next());
  return s;
}

constexpr Session kSession = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// n0, n1, ...; of `racks` racks r0, r1, ... in turns, or without labels.
std::vector<Member> make_members(unsigned count, unsigned racks = 0) {
  std::vector<Member> list(count);
  for (unsigned i = 0; i < count; i++) {
    list[i].name = "n" + std::to_string(i);
    list[i].host = "h" + std::to_string(i);
    if (racks > 0) list[i].rack = "r" + std::to_string(i % racks);
  }
  return list;
}

Member& named(std::vector<Member>& list, const std::string& name) {
  return *std::ranges::find(list, name, &Member::name);
}

void remove(std::vector<Member>& list, const std::string& name) {
  std::erase_if(list, [&](const Member& m) { return m.name == name; });
}

Placement placed(const PlacementRequest& request) {
  std::string why;
  auto p = holders(request, &why);
  cr_assert(p.has_value(), "%s", why.c_str());
  cr_assert_eq(p->holders.size(), request.count);
  cr_assert_eq(std::set<std::string>(p->holders.begin(), p->holders.end()).size(), request.count);
  cr_assert(std::ranges::count(p->holders, request.own) == 1, "the own node is a holder");
  return std::move(*p);
}

Placement replaced(const PlacementRequest& request, const Names& old) {
  std::string why;
  auto p = replace(request, old, &why);
  cr_assert(p.has_value(), "%s", why.c_str());
  cr_assert_eq(std::set<std::string>(p->holders.begin(), p->holders.end()).size(), request.count);
  for (unsigned h = 0; h < request.count; h++) {
    cr_assert_eq(p->holders[h] != old[h], std::ranges::count(p->moved, h) == 1);
  }
  return std::move(*p);
}

std::set<std::string> set_of(const Names& names) { return {names.begin(), names.end()}; }

std::map<std::string, unsigned> parts_by_rack(std::vector<Member>& list, const Names& names) {
  std::map<std::string, unsigned> parts;
  for (const std::string& name : names) parts[named(list, name).rack]++;
  return parts;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

// Were these to change, two versions would look for one session's parts on different nodes.
Test(placement, the_weights_are_fixed) {
  cr_assert_eq(weight(Purpose::kHolders, kSession, "n0"), 0xddbcf0a46d7b2281u, "%016lx",
               weight(Purpose::kHolders, kSession, "n0"));
  cr_assert_eq(weight(Purpose::kIndex, kSession, "n0"), 0xa813a0f88bdaf5efu, "%016lx",
               weight(Purpose::kIndex, kSession, "n0"));
  cr_assert_eq(weight(Purpose::kHolders, kSession, "node-17.cluster.example.org"),
               0x08cc061f0ab2f5e8u, "%016lx",
               weight(Purpose::kHolders, kSession, "node-17.cluster.example.org"));
  const auto list = make_members(12);
  const Names expected = {"n9", "n0", "n3", "n5", "n1"};
  const Names now = placed({list, kSession, "n3", 5}).holders;
  for (size_t h = 0; h < 5; h++) {
    cr_assert_str_eq(now[h].c_str(), expected[h].c_str());
  }
  const std::string index = index_node(list, kSession);
  cr_assert_str_eq(index.c_str(), "n2");
}

Test(placement, the_highest_weights_are_chosen_and_number_the_holders) {
  Random random(cr_test::test_seed());
  const auto list = make_members(20);
  for (int round = 0; round < 500; round++) {
    const Session session = random_session(random);
    const std::string own = list[random.below(20)].name;
    const unsigned count = 1 + static_cast<unsigned>(random.below(20));
    const Names now = placed({list, session, own, count}).holders;
    for (size_t h = 1; h < now.size(); h++) {
      cr_assert(weight(Purpose::kHolders, session, now[h - 1]) >
                weight(Purpose::kHolders, session, now[h]));
    }
    for (const Member& m : list) {
      if (set_of(now).contains(m.name)) continue;
      for (const std::string& name : now) {
        cr_assert(name == own || weight(Purpose::kHolders, session, name) >
                                     weight(Purpose::kHolders, session, m.name));
      }
    }
  }
}

Test(placement, does_not_depend_on_the_order_of_the_list) {
  Random random(cr_test::test_seed());
  auto list = make_members(30, 7);
  named(list, "n4").state = NodeState::kDown;
  for (int round = 0; round < 300; round++) {
    const Session session = random_session(random);
    const unsigned count = 1 + static_cast<unsigned>(random.below(20));
    const Placement first = placed({list, session, "n1", count});
    const std::string index = index_node(list, session);
    const std::string told = explain({list, session, "n1", count});
    for (size_t i = list.size() - 1; i > 0; i--) std::swap(list[i], list[random.below(i + 1)]);
    const Placement again = placed({list, session, "n1", count});
    cr_assert(first.holders == again.holders);
    cr_assert_eq(first.racks_shared, again.racks_shared);
    cr_assert(index == index_node(list, session));
    cr_assert(told == explain({list, session, "n1", count}));
  }
}

Test(placement, spreads_evenly) {
  Random random(cr_test::test_seed());
  constexpr unsigned kNodes = 20, kCount = 5;
  constexpr int kSessions = 10000;
  const auto list = make_members(kNodes);
  std::map<std::string, int> parts, indexes;
  std::map<std::ptrdiff_t, int> own_numbers;
  for (int i = 0; i < kSessions; i++) {
    const Session session = random_session(random);
    const std::string own = "n" + std::to_string(i % kNodes);
    const Names now = placed({list, session, own, kCount}).holders;
    for (const std::string& name : now) parts[name]++;
    own_numbers[std::ranges::find(now, own) - now.begin()]++;
    indexes[index_node(list, session)]++;
  }
  // Standard deviations are 1.6 % and 4.4 % of these; five of them do not happen.
  constexpr double kEven = kSessions * double{kCount} / kNodes;
  constexpr double kEvenIndex = double{kSessions} / kNodes;
  for (const Member& m : list) {
    cr_assert(std::abs(parts[m.name] - kEven) < kEven * 0.09, "%s has %d", m.name.c_str(),
              parts[m.name]);
    cr_assert(std::abs(indexes[m.name] - kEvenIndex) < kEvenIndex * 0.22, "%s has %d",
              m.name.c_str(), indexes[m.name]);
  }
  // Every number is now and then the own node's; being there without merit it is often the last.
  for (unsigned h = 0; h < kCount; h++) cr_assert(own_numbers[h] > kSessions / 50, "number %u", h);
}

Test(placement, a_node_that_leaves_moves_only_its_own_parts) {
  Random random(cr_test::test_seed());
  for (const unsigned racks : {0u, 3u, 5u, 12u}) {
    for (int round = 0; round < 1000; round++) {
      auto list = make_members(24, racks);
      const Session session = random_session(random);
      const unsigned count = 2 + static_cast<unsigned>(random.below(8));
      const PlacementRequest request{list, session, "n7", count};
      const Names before = placed(request).holders;
      const std::string gone = "n" + std::to_string(random.below(24));
      if (gone == "n7") continue;
      const NodeState state = static_cast<NodeState>(random.below(3));
      if (state == NodeState::kUp) {
        remove(list, gone);
      } else {
        named(list, gone).state = state;
      }
      const Placement after = replaced(request, before);
      for (unsigned h = 0; h < count; h++) {
        cr_assert_eq(before[h] != after.holders[h], before[h] == gone, "holder %u", h);
      }
      // The same nodes as if it had never been there.
      cr_assert(set_of(after.holders) == set_of(placed(request).holders), "%u racks, %u parts",
                racks, count);
    }
  }
}

Test(placement, several_that_leave_are_replaced_at_once) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 1000; round++) {
    auto list = make_members(24);
    const Session session = random_session(random);
    const PlacementRequest request{list, session, "n7", 8};
    const Names before = placed(request).holders;
    for (int gone = 0; gone < 10; gone++) {
      const std::string name = "n" + std::to_string(random.below(24));
      if (name != "n7") remove(list, name);
    }
    const Placement after = replaced(request, before);
    for (unsigned h = 0; h < 8; h++) {
      const bool stays = std::ranges::count(list, before[h], &Member::name) == 1;
      cr_assert_eq(before[h] == after.holders[h], stays);
    }
    cr_assert(set_of(after.holders) == set_of(placed(request).holders));
  }
}

Test(placement, a_node_that_joins_moves_one_part_at_most) {
  Random random(cr_test::test_seed());
  for (const unsigned racks : {0u, 3u, 5u, 12u}) {
    int moved = 0;
    constexpr int kRounds = 2000;
    for (int round = 0; round < kRounds; round++) {
      auto list = make_members(23, racks);
      const Session session = random_session(random);
      const PlacementRequest request{list, session, "n7", 6};
      const Names before = placed(request).holders;
      Member fresh;
      fresh.name = "new";
      if (racks > 0) fresh.rack = "r" + std::to_string(random.below(racks + 1));
      list.push_back(fresh);
      cr_assert(replaced(request, before).holders == before, "who keeps parts, keeps them");
      std::string why;
      auto after = rebalance(request, before, &why);
      cr_assert(after.has_value(), "%s", why.c_str());
      cr_assert(set_of(after->holders) == set_of(placed(request).holders));
      unsigned differs = 0;
      for (unsigned h = 0; h < 6; h++) {
        if (before[h] == after->holders[h]) continue;
        differs++;
        cr_assert(after->holders[h] == "new");
        cr_assert(after->moved == std::vector<unsigned>{h});
      }
      cr_assert(differs <= 1);
      moved += static_cast<int>(differs);
    }
    // Its share of the five parts that are not on the own node.
    if (racks == 0) cr_assert(moved > kRounds * 5 / 23 * 0.8 && moved < kRounds * 5 / 23 * 1.2);
  }
}

Test(placement, a_session_that_moved_has_its_new_node_among_the_holders) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 500; round++) {
    auto list = make_members(12);
    const Session session = random_session(random);
    const Names before = placed({list, session, "n1", 4}).holders;
    std::string next;  // its new node, no holder
    for (const Member& m : list) {
      if (!set_of(before).contains(m.name)) next = m.name;
    }
    const bool old_is_gone = random.one_in(2);
    if (old_is_gone) remove(list, "n1");
    const Placement after = replaced({list, session, next, 4}, before);
    cr_assert_eq(after.moved.size(), 1u);
    cr_assert(after.holders[after.moved[0]] == next);
    const std::string& left = before[after.moved[0]];
    if (old_is_gone) {
      cr_assert(left == "n1", "its number was free");
    } else {
      for (const std::string& name : before) {
        cr_assert(weight(Purpose::kHolders, session, left) <=
                  weight(Purpose::kHolders, session, name));
      }
    }
  }
}

Test(placement, never_two_parts_on_a_rack_while_another_has_none) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 2000; round++) {
    const unsigned racks = 1 + static_cast<unsigned>(random.below(8));
    auto list = make_members(24, racks);
    const unsigned count = 1 + static_cast<unsigned>(random.below(12));
    const Session session = random_session(random);
    const std::string own = "n" + std::to_string(random.below(24));
    const Placement now = placed({list, session, own, count});
    const auto parts = parts_by_rack(list, now.holders);
    unsigned most = 0, least = count;
    for (const auto& [rack, n] : parts) {
      most = std::max(most, n);
      least = std::min(least, n);
    }
    if (parts.size() < racks) least = 0;
    cr_assert(most - least <= 1, "%u parts on %u racks", count, racks);
    cr_assert_eq(now.racks_shared, count > racks);

    std::string why;
    auto strict = holders({list, session, own, count, true}, &why);
    cr_assert_eq(strict.has_value(), count <= racks);
    if (strict.has_value()) {
      cr_assert(strict->holders == now.holders);
    } else {
      cr_assert(strict.error().code == cr::Errc::kNotFound);
      cr_assert(has(why, std::to_string(count) + " parts are to lie on as many racks") &&
                    has(why, "are on " + std::to_string(racks) + " (a node without label"),
                "%s", why.c_str());
    }
  }
}

Test(placement, a_replacement_avoids_the_racks_of_those_that_stay) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 500; round++) {
    auto list = make_members(24, 6);
    const Session session = random_session(random);
    const PlacementRequest request{list, session, "n7", 5};
    const Names before = placed(request).holders;
    const std::string gone = before[random.below(5)];
    if (gone == "n7") continue;
    remove(list, gone);
    const Placement after = replaced(request, before);
    cr_assert_eq(parts_by_rack(list, after.holders).size(), 5u);
    cr_assert_not(after.racks_shared);
  }
}

Test(placement, a_node_without_label_is_a_rack_of_its_own) {
  auto list = make_members(6, 2);
  for (const char* name : {"n2", "n3", "n4"}) named(list, name).rack = "";
  std::string why;
  auto now = holders({list, kSession, "n2", 5, true}, &why);
  cr_assert(now.has_value(), "%s", why.c_str());
  cr_assert_not(now->racks_shared);
  cr_assert_not(holders({list, kSession, "n2", 6, true}, &why).has_value());
  cr_assert(has(why, "are on 5 (a node without label is a rack of its own)"), "%s", why.c_str());
}

Test(placement, nodes_that_are_down_or_draining_get_nothing) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 500; round++) {
    auto list = make_members(10);
    for (Member& m : list) m.state = static_cast<NodeState>(random.below(3));
    list[4].state = NodeState::kUp;
    list[6].state = random.one_in(2) ? NodeState::kUp : NodeState::kDraining;
    unsigned up = list[6].state == NodeState::kUp ? 0 : 1;  // the own node always counts
    for (const Member& m : list) up += m.state == NodeState::kUp ? 1 : 0;
    const Session session = random_session(random);
    std::string why;
    for (const std::string& name : placed({list, session, "n6", up}).holders) {
      cr_assert(name == "n6" || named(list, name).state == NodeState::kUp);
    }
    cr_assert(named(list, index_node(list, session)).state == NodeState::kUp);
    auto more = holders({list, session, "n6", up + 1}, &why);
    cr_assert(!more.has_value() && more.error().code == cr::Errc::kNotFound);
    cr_assert(has(why, std::to_string(up + 1) + " nodes are needed") &&
                  has(why, "only " + std::to_string(up) + " can take one") &&
                  has(why, "; add nodes, or choose a protection of fewer parts"),
              "%s", why.c_str());
    for (const Member& m : list) {
      const bool out = m.state != NodeState::kUp && m.name != "n6";
      const bool down = m.state == NodeState::kDown;
      cr_assert_eq(has(why, m.name + (down ? " is down" : " is draining")), out, "%s", why.c_str());
    }
  }
}

Test(placement, the_index_is_on_a_draining_node_only_if_no_other_is_up) {
  auto list = make_members(3);
  for (Member& m : list) m.state = NodeState::kDown;
  cr_assert(index_node(list, kSession).empty());
  list[1].state = NodeState::kDraining;
  cr_assert(index_node(list, kSession) == "n1");
  list[2].state = NodeState::kUp;
  cr_assert(index_node(list, kSession) == "n2");
  cr_assert(index_node({}, kSession).empty());
}

Test(placement, the_index_moves_only_from_the_node_that_leaves) {
  Random random(cr_test::test_seed());
  for (int round = 0; round < 1000; round++) {
    auto list = make_members(15);
    const Session session = random_session(random);
    const std::string before = index_node(list, session);
    const std::string gone = "n" + std::to_string(random.below(15));
    remove(list, gone);
    cr_assert_eq(index_node(list, session) == before, gone != before);
  }
}

Test(placement, what_cannot_be_is_refused) {
  const auto list = make_members(3);
  std::string why;
  cr_assert(holders({list, kSession, "x", 2}, &why).error().code == cr::Errc::kInvalid);
  cr_assert(has(why, "own node \"x\" is not in the member list"), "%s", why.c_str());
  cr_assert_not(holders({list, kSession, "n1", 0}, &why).has_value());
  for (const Names& old : {Names{"n1"}, Names{"n1", "n1"}, Names{"n0", "n1", "n2"}, Names{}}) {
    cr_assert(replace({list, kSession, "n1", 2}, old, &why).error().code == cr::Errc::kInvalid);
    cr_assert(has(why, "but the session has 2 parts"), "%s", why.c_str());
    cr_assert_not(rebalance({list, kSession, "n1", 2}, old, &why).has_value());
  }
  cr_assert_not(replace({list, kSession, "n1", 4}, {"n0", "n1", "n2", "n9"}, &why).has_value());
  cr_assert(has(why, "4 nodes are needed"), "%s", why.c_str());
}

Test(placement, is_explained) {
  auto list = make_members(12, 6);
  named(list, "n5").rack = "";
  const PlacementRequest request{list, kSession, "n3", 4};
  const Names before = placed(request).holders;
  const std::string lost = before[before[0] == "n3" ? 1 : 0];
  for (Member& m : list) {
    if (m.name != "n3" && !set_of(before).contains(m.name)) {
      m.state = NodeState::kDraining;
      break;
    }
  }
  std::string text = explain(request);
  cr_assert(text.find("session 000102030405060708090a0b0c0d0e0f: 4 holders of 12 nodes") == 0);
  cr_assert(has(text, "the session's own node"));
  cr_assert(has(text, "\nindex node: " + index_node(list, kSession) + "\n"));
  for (const Member& m : list) {
    char w[17];
    snprintf(w, sizeof(w), "%016lx", weight(Purpose::kHolders, kSession, m.name));
    const size_t at = text.find(w);
    cr_assert(at != std::string::npos, "%s has no line", m.name.c_str());
    const std::string line = text.substr(at, text.find('\n', at) - at);
    cr_assert(has(line, " " + m.name + " ") && has(line, m.rack.empty() ? " - " : m.rack));
    const auto holder = std::ranges::find(before, m.name);
    if (holder != before.end()) {
      cr_assert(has(line, "holder " + std::to_string(holder - before.begin())), "%s", line.c_str());
    } else if (m.state == NodeState::kDraining) {
      cr_assert(has(line, "passed over: draining"), "%s", line.c_str());
    } else {
      cr_assert(has(line, "passed over: rack " + m.rack + " has ") || has(line, "not needed"), "%s",
                line.c_str());
    }
  }
  named(list, lost).state = NodeState::kDown;
  text = explain(request, before);
  cr_assert(has(text, "passed over: down") && has(text, "in place of " + lost) &&
                has(text, ", as before"),
            "%s", text.c_str());
  cr_assert(has(explain({list, kSession, "n3", 20}), "20 nodes are needed"));
}

Test(placement, the_explanation_of_a_large_cluster_is_short) {
  const auto list = make_members(3000);
  const std::string own = "n3";
  const std::string text = explain({list, kSession, own, 3});
  for (const std::string& name : placed({list, kSession, own, 3}).holders) {
    cr_assert(has(text, "  " + name + " "), "%s", text.c_str());
  }
  cr_assert(has(text, ", the session's own node\n") && has(text, " more nodes are not needed\n"));
  cr_assert_not(has(text, "passed over"), "by weight alone: %s", text.c_str());
  cr_assert(std::ranges::count(text, '\n') < 20);
}
