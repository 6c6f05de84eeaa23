// SPDX-License-Identifier: MIT
// placement.h - which nodes keep the parts of a session, and which one keeps its index entry:
// rendezvous hashing (highest random weight; Thaler and Ravishankar, 1998) over the member list.
// Invariant: every node with the same member list comes to the same result, in whatever order the
// list is; a node that leaves or joins moves only its own share.
// Context: N. Doc: docs/store.md.
//
// weight(purpose, session, node) = format::checksum (XXH3-64) of the session's 16 bytes, one byte
// that is the purpose (0 holders, 1 the index), and the node's name. The highest weight comes
// first, of equal ones the lower name. The session's own node is always a holder; the others are
// taken by weight: a node that is down or draining is passed over, and so is one whose rack has a
// part already (a node without label is a rack of its own). If there are fewer racks than parts,
// the racks are filled evenly, by weight, and racks_shared says so. Holder numbers follow the
// weights of the chosen, so that the own node has no fixed number.
#pragma once

#include <stdint.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/base.h"
#include "node/members.h"

namespace cr::node {

using SessionBytes = std::span<const uint8_t, 16>;

enum class Purpose : uint8_t { kHolders = 0, kIndex = 1 };
uint64_t weight(Purpose purpose, SessionBytes session, std::string_view node);

struct PlacementRequest {
  const std::vector<Member>& members;
  SessionBytes session;
  std::string own;            // the session's node; included even if it is draining
  unsigned count = 1;         // K + M
  bool strict_racks = false;  // fewer racks than parts: an error instead of racks_shared
};

struct Placement {
  std::vector<std::string> holders;  // names; holder h is [h]
  bool racks_shared = false;         // two parts lie on one rack
  std::vector<unsigned> moved;       // holder numbers that another node has than before, ascending
};

// Of a session that has no parts yet. Too few nodes, or racks if strict: kNotFound; *ret_text says
// how many there are and are needed, and who is down or draining.
Result<Placement> holders(const PlacementRequest& request, std::string* ret_text);
// After the member list changed: whoever still can, keeps its parts under its number; the numbers
// of those that cannot (gone from the list, down or draining) get new nodes, by weight. An own node
// that is no holder yet takes the first number that is free, else that of the lowest weight. With
// old = holders() of the old list and without racks, the nodes are those that holders() would
// choose now. `old` has request.count different names, else kInvalid.
Result<Placement> replace(const PlacementRequest& request, const std::vector<std::string>& old,
                          std::string* ret_text);
// The nodes that holders() chooses now, under the old numbers as far as they were holders: a node
// that joined gets its share. May move more than replace(); each member that joined moves one part
// at most.
Result<Placement> rebalance(const PlacementRequest& request, const std::vector<std::string>& old,
                            std::string* ret_text);

// Name of the node that keeps the session's index entry: the highest weight of those that are up;
// draining ones only if no other is. "" if all are down.
std::string index_node(const std::vector<Member>& members, SessionBytes session);

// For people: a line for each node by weight, whether it is a holder and why not. `old`: what
// replace() would make of these; empty: what holders() would choose.
std::string explain(const PlacementRequest& request, const std::vector<std::string>& old = {});

}  // namespace cr::node
