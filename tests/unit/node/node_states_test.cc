// SPDX-License-Identifier: MIT
// node_states_test.cc - which nodes are drained: what is set is remembered, what is newer is taken,
// and all that hear of each other come to the same result.
#include "node/node_states.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace {

using cr::format::NodeStatesView;
using cr::node::Member;
using cr::node::NodeState;
using cr::node::NodeStates;

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/cr-states-test-XXXXXX";
    cr_assert_not_null(mkdtemp(name));
    path_ = name;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  NodeStates open() {
    return NodeStates(path_, false, [this](const std::string& line) { said += line + "\n"; });
  }
  const std::string& path() const { return path_; }
  std::string said;

 private:
  std::string path_;
};

// As on a link.
bool tell(const NodeStates& from, NodeStates* to) {
  bool more = true, changed = false;
  for (uint32_t skip = 0; more; skip += cr::format::kMostStatesAtOnce) {
    const auto message = from.message(7, skip, &more);
    const auto view = cr::format::read_node_states_message(message.data(), message.size());
    cr_assert(view.has_value());
    cr_assert_eq(view->head.request, 7u);
    changed |= to->merge(*view);
  }
  return changed;
}

}  // namespace

Test(drained_nodes, are_remembered) {
  Directory d;
  {
    NodeStates states = d.open();
    cr_assert(!states.is_draining("b"));
    cr_assert(*states.set("b", true));
    cr_assert(!*states.set("b", true), "it is so already");
    cr_assert(*states.set("c", true));
    cr_assert(*states.set("c", false));
  }
  NodeStates again = d.open();
  cr_assert(again.is_draining("b") && !again.is_draining("c") && d.said.empty());
  std::vector<Member> members(3);
  members[0].name = "a";
  members[1].name = "b";
  members[2].name = "c";
  again.apply(&members);
  cr_assert(members[0].state == NodeState::kUp && members[1].state == NodeState::kDraining &&
            members[2].state == NodeState::kUp);
}

// It tells who knows less.
Test(drained_nodes, the_epoch_counts_changes) {
  Directory here, there;
  NodeStates ours = here.open(), theirs = there.open();
  cr_assert_eq(ours.epoch(), 0u);
  cr_assert(*ours.set("b", true) && *ours.set("b", false) && *ours.set("c", true));
  cr_assert(!*ours.set("c", true));
  cr_assert_eq(ours.epoch(), 3u);
  cr_assert(*theirs.set("d", true));
  tell(ours, &theirs);
  cr_assert_eq(theirs.epoch(), 4u);
  tell(theirs, &ours);
  cr_assert_eq(ours.epoch(), 4u);
  cr_assert_eq(here.open().epoch(), 4u, "it is remembered");
}

Test(drained_nodes, a_name_that_is_none) {
  Directory d;
  NodeStates states = d.open();
  cr_assert(!states.set("", true).has_value());
  cr_assert(!states.set("a/b", true).has_value());
  cr_assert(!states.set(std::string(64, 'x'), true).has_value());
}

Test(drained_nodes, the_newer_change_wins_on_both_sides) {
  Directory one, two;
  NodeStates a = one.open(), b = two.open();
  cr_assert(*a.set("x", true));
  cr_assert(tell(a, &b) && b.is_draining("x"));
  cr_assert(!tell(b, &a) && !tell(a, &b), "nothing is new any more");
  cr_assert(*b.set("x", false));
  cr_assert(!tell(a, &b) && !b.is_draining("x"), "what is older is not taken");
  cr_assert(tell(b, &a) && !a.is_draining("x"));
  cr_assert(!one.open().is_draining("x"), "and it is remembered");
}

Test(drained_nodes, two_changes_at_the_same_time) {
  Directory one, two;
  NodeStates a = one.open(), b = two.open();
  cr_assert(*a.set("x", true) && tell(a, &b));
  cr_assert(*a.set("x", false) && *a.set("x", true));
  cr_assert(*b.set("x", false) && *b.set("x", true) && *b.set("x", false));
  tell(a, &b);
  tell(b, &a);
  cr_assert(!a.is_draining("x") && !b.is_draining("x"), "the one with more changes");
}

Test(drained_nodes, more_than_fit_into_a_message) {
  Directory one, two;
  NodeStates a = one.open(), b = two.open();
  constexpr int kNodes = 300;
  for (int i = 0; i < kNodes; i++) cr_assert(*a.set("n" + std::to_string(i), true));
  cr_assert(tell(a, &b));
  for (int i = 0; i < kNodes; i++) cr_assert(b.is_draining("n" + std::to_string(i)), "%d", i);
}

Test(drained_nodes, a_damaged_file_is_put_aside) {
  Directory d;
  { cr_assert(*d.open().set("b", true)); }
  const std::string path = d.path() + "/nodes";
  cr_assert_eq(truncate(path.c_str(), 100), 0);
  NodeStates states = d.open();
  cr_assert(!states.is_draining("b"));
  cr_assert(d.said.find("nodes.damaged") != std::string::npos, "%s", d.said.c_str());
  cr_assert(std::filesystem::exists(path + ".damaged"));
  cr_assert(*states.set("b", true) && d.open().is_draining("b"));
}

Test(drained_nodes, what_cannot_be_remembered_is_not_so) {
  Directory d;
  NodeStates states = d.open();
  std::filesystem::remove_all(d.path());
  cr_assert(!states.set("b", true).has_value());
  cr_assert(!states.is_draining("b"));
}
