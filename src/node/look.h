// SPDX-License-Identifier: MIT
// look.h - what a node finds to do when it looks at all nodes' parts: sessions that lack parts,
// sessions whose parts lie on nodes that are drained, parts that nobody needs any more.
// Invariant: of each session one node at most finds anything: the one where it runs; else the one
// where it ran, if that is in service; else its index node. A part is only found stale if all parts
// of a checkpoint that is not older are elsewhere, on nodes in service, each on another one.
// Context: N. Doc: docs/store.md, "Drain".
#pragma once

#include <set>
#include <string>
#include <vector>

#include "node/cluster.h"
#include "node/members.h"
#include "node/recovery.h"

namespace cr::node {

struct Surroundings {
  std::vector<Member> members;    // with their states; kDown: it could not be asked
  std::string own;                // this node
  std::set<SessionId> here;       // sessions that this node sees to
  std::set<SessionId> elsewhere;  // ... that others see to
  // Some nodes could not be asked, and all of these are drained: they need not be waited for.
  bool only_drained_away = false;
};

// A part on a node: drop.holder and all that is not newer than drop.triple.
struct StalePart {
  std::string node;
  format::DropParts drop{};
};

struct LookResult {
  std::vector<SessionId> lacking;    // parts are missing, perhaps only for a moment
  std::vector<SessionId> displaced;  // parts have to move
  std::vector<StalePart> stale;      // of sessions that nobody sees to
  std::vector<FoundPart> of_here;    // of those that this node sees to: see stale_of_running()
};
LookResult look(const std::vector<FoundPart>& parts, const Surroundings& around);

// Takes out the parts of sessions that were removed while their nodes were away, and that nobody
// sees to: these nodes may drop them.
std::vector<StalePart> take_removed(std::vector<FoundPart>* parts, const RemovedSessions& removed,
                                    const Surroundings& around);

// The parts of a session that runs here which are on nodes that are not their holder. To be used
// only if the holders have all parts of `newest`.
std::vector<StalePart> stale_of_running(const std::vector<FoundPart>& parts, const SessionId& id,
                                        const format::Triple& newest,
                                        const std::vector<std::string>& holders);

// What of the newest checkpoint that can be had is where.
struct Spread {
  const Available* whole = nullptr;  // nullptr: none can be had
  unsigned in_service = 0;           // parts that are on nodes in service
  unsigned displaced = 0;            // ... only on others
};
Spread spread_of(const std::vector<Available>& checkpoints, const std::vector<Member>& members);
// How many nodes can take a part.
size_t in_service(const std::vector<Member>& members);

struct SessionParts {
  SessionId id{};
  std::vector<FoundPart> parts;
  std::vector<Available> checkpoints;  // newest first
};
std::vector<SessionParts> by_session(const std::vector<FoundPart>& parts);

}  // namespace cr::node
