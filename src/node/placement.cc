// SPDX-License-Identifier: MIT
// placement.cc - choosing holders by weight. Invariant: as placement.h; nothing here depends on the
// order of the member list. Context: N. Doc: docs/store.md.
#include "node/placement.h"

#include <stdio.h>

#include <algorithm>
#include <map>
#include <set>

#include "format/checksum.h"

namespace cr::node {
namespace {

constexpr size_t kNone = ~size_t{0};

struct Candidate {
  const Member* member;
  uint64_t weight;
};

// The members by weight, the highest first.
std::vector<Candidate> rank(const std::vector<Member>& members, Purpose purpose,
                            SessionBytes session) {
  std::vector<Candidate> ranked;
  ranked.reserve(members.size());
  for (const Member& m : members) ranked.push_back({&m, weight(purpose, session, m.name)});
  std::ranges::sort(ranked, [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.member->name < b.member->name;
  });
  return ranked;
}

// Chooses holders; places are indices into the ranking.
class Chooser {
 public:
  explicit Chooser(const PlacementRequest& request)
      : request_(request),
        ranked_(rank(request.members, Purpose::kHolders, request.session)),
        chosen_(ranked_.size()) {}

  const std::vector<Candidate>& ranked() const { return ranked_; }
  const std::string& name(size_t place) const { return ranked_[place].member->name; }
  bool chosen(size_t place) const { return chosen_[place]; }
  bool usable(size_t place) const {
    return ranked_[place].member->state == NodeState::kUp || name(place) == request_.own;
  }
  size_t find(std::string_view node) const {
    for (size_t i = 0; i < ranked_.size(); i++) {
      if (name(i) == node) return i;
    }
    return kNone;
  }
  size_t own() const { return find(request_.own); }

  Result<void> check(std::string* ret_text) const;
  void choose(size_t place) {
    chosen_[place] = true;
    count_++;
    parts_on_[ranked_[place].member->rack]++;
  }
  // Chooses as many as are lacking; *ret: these, by weight.
  Result<void> fill(std::vector<size_t>* ret, std::string* ret_text);
  bool racks_shared() const {
    return std::ranges::any_of(parts_on_, [](auto& r) { return !r.first.empty() && r.second > 1; });
  }

 private:
  size_t racks() const;

  const PlacementRequest& request_;
  const std::vector<Candidate> ranked_;
  std::vector<bool> chosen_;
  std::map<std::string, unsigned> parts_on_;  // by rack
  unsigned count_ = 0;
};

Result<void> Chooser::check(std::string* ret_text) const {
  if (request_.count == 0) {
    *ret_text = "a session of no parts has no holders; give a protection as rs:8+2";
    return Error{Errc::kInvalid, 0, "no parts"};
  }
  if (own() == kNone) {
    *ret_text =
        "the session's own node \"" + request_.own + "\" is not in the member list; add it there";
    return Error{Errc::kInvalid, 0, "the own node is no member"};
  }
  constexpr size_t kMostNames = 8;
  size_t can = 0, named = 0;
  std::set<std::string> others;  // so that their order is the same everywhere
  for (size_t i = 0; i < ranked_.size(); i++) {
    can += usable(i) ? 1 : 0;
    if (usable(i)) continue;
    others.insert(name(i) +
                  (ranked_[i].member->state == NodeState::kDown ? " is down" : " is draining"));
  }
  if (can >= request_.count) return {};
  std::string why;
  for (const std::string& other : others) {
    if (named++ == kMostNames) break;
    why += (why.empty() ? "" : ", ") + other;
  }
  if (others.size() > kMostNames) {
    why += ", and " + std::to_string(others.size() - kMostNames) + " more cannot";
  }
  *ret_text = std::to_string(request_.count) + " nodes are needed, one for each part, but of " +
              std::to_string(ranked_.size()) + " in the member list only " + std::to_string(can) +
              " can take one" + (why.empty() ? "" : " (" + why + ")") +
              "; add nodes, or choose a protection of fewer parts";
  return Error{Errc::kNotFound, 0, "too few nodes"};
}

// Those on which a part could lie.
size_t Chooser::racks() const {
  std::set<std::string> labels;
  size_t single = 0;
  for (size_t i = 0; i < ranked_.size(); i++) {
    if (!usable(i)) continue;
    const std::string& rack = ranked_[i].member->rack;
    single += rack.empty() ? 1 : 0;
    if (!rack.empty()) labels.insert(rack);
  }
  return single + labels.size();
}

Result<void> Chooser::fill(std::vector<size_t>* ret, std::string* ret_text) {
  // Round n takes nodes of racks that have fewer than n parts, so that the parts spread evenly.
  for (unsigned round = 1; count_ < request_.count; round++) {
    if (round > 1 && request_.strict_racks) {
      *ret_text = std::to_string(request_.count) +
                  " parts are to lie on as many racks, but the nodes that can take parts are on " +
                  std::to_string(racks()) + " (a node without label is a rack of its own); add " +
                  "racks, choose a protection of fewer parts, or let parts share a rack";
      return Error{Errc::kNotFound, 0, "too few racks"};
    }
    for (size_t i = 0; i < ranked_.size() && count_ < request_.count; i++) {
      const std::string& rack = ranked_[i].member->rack;
      if (chosen_[i] || !usable(i) || (!rack.empty() && parts_on_[rack] >= round)) continue;
      choose(i);
      ret->push_back(i);
    }
  }
  std::ranges::sort(*ret);
  return {};
}

Result<void> check_old(const PlacementRequest& request, const std::vector<std::string>& old,
                       std::string* ret_text) {
  const std::set<std::string> different(old.begin(), old.end());
  if (old.size() == request.count && different.size() == old.size()) return {};
  *ret_text = "the holders before are " + std::to_string(different.size()) +
              " different nodes, but the session has " + std::to_string(request.count) + " parts";
  return Error{Errc::kInvalid, 0, "holders that do not fit the protection"};
}

// Gives the numbers that nobody stays at to `fresh`.
Placement settle(const Chooser& chooser, const std::vector<size_t>& stays,
                 const std::vector<size_t>& fresh) {
  Placement placement;
  size_t next = 0;
  for (unsigned h = 0; h < stays.size(); h++) {
    if (stays[h] == kNone) placement.moved.push_back(h);
    placement.holders.push_back(chooser.name(stays[h] == kNone ? fresh[next++] : stays[h]));
  }
  placement.racks_shared = chooser.racks_shared();
  return placement;
}

Result<Placement> choose_holders(Chooser& chooser, std::string* ret_text) {
  CR_TRYV(chooser.check(ret_text));
  chooser.choose(chooser.own());
  std::vector<size_t> places;
  CR_TRYV(chooser.fill(&places, ret_text));
  places.push_back(chooser.own());
  std::ranges::sort(places);
  Placement placement;
  for (const size_t place : places) placement.holders.push_back(chooser.name(place));
  placement.racks_shared = chooser.racks_shared();
  return placement;
}

Result<Placement> replace_holders(const PlacementRequest& request, Chooser& chooser,
                                  const std::vector<std::string>& old, std::string* ret_text) {
  CR_TRYV(check_old(request, old, ret_text));
  CR_TRYV(chooser.check(ret_text));
  std::vector<size_t> stays;
  for (const std::string& node : old) {
    const size_t place = chooser.find(node);
    stays.push_back(place != kNone && chooser.usable(place) ? place : kNone);
  }
  const size_t own = chooser.own();
  std::vector<size_t> fresh, added;
  if (std::ranges::find(stays, own) == stays.end()) {
    if (std::ranges::find(stays, kNone) == stays.end()) *std::ranges::max_element(stays) = kNone;
    fresh.push_back(own);
    chooser.choose(own);
  }
  for (const size_t place : stays) {
    if (place != kNone) chooser.choose(place);
  }
  CR_TRYV(chooser.fill(&added, ret_text));
  fresh.insert(fresh.end(), added.begin(), added.end());
  return settle(chooser, stays, fresh);
}

std::string hex(SessionBytes session) {
  std::string text;
  char digits[3];
  for (const uint8_t byte : session) {
    snprintf(digits, sizeof(digits), "%02x", byte);
    text += digits;
  }
  return text;
}

// Why the node of that place is a holder, or is none. Those from `places` on were not looked at.
std::string reason(const PlacementRequest& request, const Chooser& chooser,
                   const Placement& placement, const std::vector<std::string>& old, size_t place,
                   size_t places) {
  const std::string& name = chooser.name(place);
  const auto holder = std::ranges::find(placement.holders, name);
  const std::string own = name == request.own ? ", the session's own node" : "";
  if (holder != placement.holders.end()) {
    const auto number = static_cast<size_t>(holder - placement.holders.begin());
    std::string text = "holder " + std::to_string(number) + own;
    if (!old.empty()) text += old[number] == name ? ", as before" : ", in place of " + old[number];
    return text;
  }
  const Member& member = *chooser.ranked()[place].member;
  if (member.state == NodeState::kDown) return "passed over: down";
  if (member.state == NodeState::kDraining) return "passed over: draining";
  if (place >= places) return "not needed";
  if (member.rack.empty()) return "passed over: the holders before stay";
  for (size_t i = 0; i < chooser.ranked().size(); i++) {
    if (chooser.chosen(i) && chooser.ranked()[i].member->rack == member.rack) {
      return "passed over: rack " + member.rack + " has " + chooser.name(i);
    }
  }
  return "passed over: the holders before stay";
}

}  // namespace

uint64_t weight(Purpose purpose, SessionBytes session, std::string_view node) {
  std::string bytes(session.begin(), session.end());
  bytes += static_cast<char>(purpose);
  bytes += node;
  return format::checksum(bytes.data(), bytes.size());
}

Result<Placement> holders(const PlacementRequest& request, std::string* ret_text) {
  Chooser chooser(request);
  return choose_holders(chooser, ret_text);
}

Result<Placement> replace(const PlacementRequest& request, const std::vector<std::string>& old,
                          std::string* ret_text) {
  Chooser chooser(request);
  return replace_holders(request, chooser, old, ret_text);
}

Result<Placement> rebalance(const PlacementRequest& request, const std::vector<std::string>& old,
                            std::string* ret_text) {
  CR_TRYV(check_old(request, old, ret_text));
  Chooser chooser(request);
  CR_TRY(const Placement now, choose_holders(chooser, ret_text));
  std::vector<size_t> stays, fresh;
  for (const std::string& node : old) {
    const size_t place = chooser.find(node);
    stays.push_back(place != kNone && chooser.chosen(place) ? place : kNone);
  }
  for (const std::string& node : now.holders) {  // by weight
    if (std::ranges::find(old, node) == old.end()) fresh.push_back(chooser.find(node));
  }
  return settle(chooser, stays, fresh);
}

std::string index_node(const std::vector<Member>& members, SessionBytes session) {
  const std::vector<Candidate> ranked = rank(members, Purpose::kIndex, session);
  for (const NodeState state : {NodeState::kUp, NodeState::kDraining}) {
    for (const Candidate& c : ranked) {
      if (c.member->state == state) return c.member->name;
    }
  }
  return "";
}

std::string explain(const PlacementRequest& request, const std::vector<std::string>& old) {
  constexpr size_t kMoreLines = 10;  // of nodes that are not needed
  Chooser chooser(request);
  std::string text;
  auto made =
      old.empty() ? choose_holders(chooser, &text) : replace_holders(request, chooser, old, &text);
  if (!made) return text + "\n";
  size_t places = 0, name_width = 4, rack_width = 4;
  for (size_t i = 0; i < chooser.ranked().size(); i++) {
    if (chooser.chosen(i) && chooser.name(i) != request.own) places = i + 1;
    name_width = std::max(name_width, chooser.name(i).size());
    rack_width = std::max(rack_width, chooser.ranked()[i].member->rack.size());
  }
  const auto line = [&](std::string w, std::string name, std::string rack, const std::string& why) {
    w.resize(16, ' ');
    name.resize(name_width, ' ');
    rack.resize(rack_width, ' ');
    text += w + "  " + name + "  " + rack + "  " + why + "\n";
  };
  text = "session " + hex(request.session) + ": " + std::to_string(request.count) + " holders of " +
         std::to_string(chooser.ranked().size()) + " nodes, by weight\n";
  line("weight", "node", "rack", "decision");
  size_t left_out = 0;
  for (size_t i = 0; i < chooser.ranked().size(); i++) {
    const Candidate& c = chooser.ranked()[i];
    if (i >= places + kMoreLines && c.member->name != request.own) {
      left_out++;
      continue;
    }
    char w[17];
    snprintf(w, sizeof(w), "%016llx", static_cast<unsigned long long>(c.weight));
    line(w, c.member->name, c.member->rack.empty() ? "-" : c.member->rack,
         reason(request, chooser, *made, old, i, places));
  }
  if (left_out > 0) text += std::to_string(left_out) + " more nodes are not needed\n";
  if (made->racks_shared) text += "some racks have several parts\n";
  return text + "index node: " + index_node(request.members, request.session) + "\n";
}

}  // namespace cr::node
