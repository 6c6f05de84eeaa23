// SPDX-License-Identifier: MIT
// look.cc - see look.h. Invariant: as there. Context: N.
#include "node/look.h"

#include <string.h>

#include <algorithm>
#include <map>

#include "node/placement.h"

namespace cr::node {
namespace {

using format::Triple;

NodeState state_of(const std::vector<Member>& members, const std::string& node) {
  const size_t i = find_member(members, node);
  return i == members.size() ? NodeState::kDown : members[i].state;
}

// Which node keeps which part of the checkpoint, each another one, all in service; empty: not all
// parts are on such nodes. Where two have the same part, it is the one of the higher weight.
std::vector<std::string> keepers_of(const Available& a, const std::vector<Member>& members,
                                    const SessionId& id) {
  std::vector<std::vector<std::string>> candidates(a.holders.size());
  for (size_t h = 0; h < a.holders.size(); h++) {
    for (const FoundPart& p : a.holders[h]) {
      if (state_of(members, p.node) == NodeState::kUp) candidates[h].push_back(p.node);
    }
    std::ranges::sort(candidates[h], [&](const std::string& x, const std::string& y) {
      return weight(Purpose::kHolders, id, x) > weight(Purpose::kHolders, id, y);
    });
  }
  std::vector<size_t> order(candidates.size());
  for (size_t h = 0; h < order.size(); h++) order[h] = h;
  std::ranges::stable_sort(order, {}, [&](size_t h) { return candidates[h].size(); });
  std::vector<std::string> keepers(candidates.size());
  for (const size_t h : order) {
    const auto free = std::ranges::find_if(candidates[h], [&](const std::string& node) {
      return std::ranges::find(keepers, node) == keepers.end();
    });
    if (free == candidates[h].end()) return {};
    keepers[h] = *free;
  }
  return keepers;
}

void add_stale(const FoundPart& p, const Triple& newest, const std::vector<std::string>& keepers,
               std::vector<StalePart>* ret) {
  const uint32_t h = p.entry.holder;
  if (h < keepers.size() && keepers[h] == p.node) return;
  if (is_newer(p.entry.triple, newest)) return;
  const bool known = std::ranges::any_of(*ret, [&](const StalePart& s) {
    return s.node == p.node && s.drop.holder == h &&
           memcmp(s.drop.session_id, p.entry.session_id, sizeof(s.drop.session_id)) == 0;
  });
  if (known) return;
  StalePart s;
  s.node = p.node;
  memcpy(s.drop.session_id, p.entry.session_id, sizeof(s.drop.session_id));
  s.drop.triple = newest;
  s.drop.holder = h;
  ret->push_back(std::move(s));
}

// Has this node to see to a session that nobody runs?
bool is_ours(const SessionParts& s, const Surroundings& around) {
  const std::string origin = s.checkpoints[0].like.origin;
  if (state_of(around.members, origin) == NodeState::kUp) return origin == around.own;
  return index_node(around.members, s.id) == around.own;
}

}  // namespace

std::vector<SessionParts> by_session(const std::vector<FoundPart>& parts) {
  std::map<SessionId, std::vector<FoundPart>> sorted;
  for (const FoundPart& p : parts) sorted[session_id_of(p.entry.session_id)].push_back(p);
  std::vector<SessionParts> all;
  for (auto& [id, own] : sorted) {
    SessionParts s{id, std::move(own), {}};
    s.checkpoints = available(s.parts);
    if (!s.checkpoints.empty()) all.push_back(std::move(s));
  }
  return all;
}

size_t in_service(const std::vector<Member>& members) {
  return static_cast<size_t>(std::ranges::count(members, NodeState::kUp, &Member::state));
}

Spread spread_of(const std::vector<Available>& checkpoints, const std::vector<Member>& members) {
  Spread s;
  const auto whole = std::ranges::find_if(checkpoints, &Available::is_whole);
  if (whole == checkpoints.end()) return s;
  s.whole = &*whole;
  for (const std::vector<FoundPart>& at : whole->holders) {
    if (at.empty()) continue;
    const bool good = std::ranges::any_of(
        at, [&](const FoundPart& p) { return state_of(members, p.node) == NodeState::kUp; });
    (good ? s.in_service : s.displaced)++;
  }
  return s;
}

LookResult look(const std::vector<FoundPart>& parts, const Surroundings& around) {
  LookResult result;
  for (const SessionParts& s : by_session(parts)) {
    if (around.here.contains(s.id)) {
      result.of_here.insert(result.of_here.end(), s.parts.begin(), s.parts.end());
      continue;
    }
    if (around.elsewhere.contains(s.id) || !is_ours(s, around)) continue;
    for (const Available& a : s.checkpoints) {
      const std::vector<std::string> keepers = keepers_of(a, around.members, s.id);
      if (keepers.empty()) continue;
      for (const FoundPart& p : s.parts) add_stale(p, a.triple, keepers, &result.stale);
      break;
    }
    const Spread spread = spread_of(s.checkpoints, around.members);
    if (spread.whole == nullptr || spread.in_service == spread.whole->holders.size()) continue;
    if (in_service(around.members) < spread.whole->holders.size()) continue;  // nowhere to put them
    const bool known = spread.in_service + spread.displaced == spread.whole->holders.size();
    (known || around.only_drained_away ? result.displaced : result.lacking).push_back(s.id);
  }
  return result;
}

std::vector<StalePart> take_removed(std::vector<FoundPart>* parts, const RemovedSessions& removed,
                                    const Surroundings& around) {
  std::vector<StalePart> stale;
  std::erase_if(*parts, [&](const FoundPart& p) {
    const SessionId id = session_id_of(p.entry.session_id);
    if (around.here.contains(id) || around.elsewhere.contains(id)) return false;
    const Triple newest = removed.covers(id, p.entry.triple);
    if (is_none(newest)) return false;
    add_stale(p, newest, {}, &stale);
    return true;
  });
  return stale;
}

std::vector<StalePart> stale_of_running(const std::vector<FoundPart>& parts, const SessionId& id,
                                        const Triple& newest,
                                        const std::vector<std::string>& holders) {
  std::vector<StalePart> stale;
  for (const FoundPart& p : parts) {
    if (session_id_of(p.entry.session_id) == id) add_stale(p, newest, holders, &stale);
  }
  return stale;
}

}  // namespace cr::node
