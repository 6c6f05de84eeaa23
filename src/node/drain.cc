// SPDX-License-Identifier: MIT
// drain.cc - taking a node out of service, as `crstore drain` asks for it: tells all nodes, and
// looks how far they have got; see daemon.h. What is done for it is in daemon_look.cc.
// Invariant: that a node is drained is said only when it was asked and keeps nothing but parts of
// sessions that run there; what is left is named with its cause.
// Context: N; a thread of its own each. Doc: docs/store.md, "Drain".
#include <string.h>
#include <time.h>

#include <algorithm>
#include <map>

#include "node/daemon.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kNoProgressNs = 30 * kSecond;
constexpr unsigned kStuckRounds = 3;  // by then every node has looked

// A session that still needs the node.
struct Need {
  std::string name, session, why;
  bool stays = false;  // nothing is going to change by itself
  bool runs = false;   // ... as it runs there
};

struct Round {
  std::vector<Need> needs;
  size_t parts = 0;  // on the node, but for those of sessions that run there
  uint64_t bytes = 0;
  uint64_t sent_bytes = 0;  // by sessions that move
  bool mended = false;      // images are being made: no other sign of progress is seen
  std::map<std::string, std::string> unreachable;
};

// What is known of a session, from the node that sees to it and from the parts on the drained one.
struct Known {
  std::string seer;  // "": nobody
  SessionEntry entry{};
  size_t parts = 0;
  uint64_t bytes = 0;
  std::string name;
  const SessionParts* found = nullptr;
};

class Look {
 public:
  Look(const RequestContext& context, Cluster& cluster, const std::string& node)
      : node_(node), members_(surroundings_of(context, cluster).members) {
    sessions_ = by_session(cluster.list(nullptr));
    for (const SessionParts& s : sessions_) add_parts(s);
    for (const SessionEntry& e : context.sessions(node))
      add_entry(context.cluster.members.self().name, e);
    for (const Member& m : members_) {
      if (m.state == NodeState::kDown || m.name == context.cluster.members.self().name) continue;
      const auto sessions = cluster.sessions(m.name, node);
      for (const SessionEntry& e : sessions ? *sessions : std::vector<SessionEntry>()) {
        add_entry(m.name, e);
      }
    }
  }
  Round round() const;

 private:
  void add_parts(const SessionParts& s) {
    Known& k = known_[s.id];
    k.found = &s;
    k.name = s.checkpoints[0].like.name;
    for (const FoundPart& p : s.parts) {
      if (p.node != node_) continue;
      k.parts++;
      k.bytes += p.entry.stored_bytes;
    }
  }
  void add_entry(const std::string& seer, const SessionEntry& e) {
    Known& k = known_[session_id_of(e.session_id)];
    k.seer = seer;
    k.entry = e;
    if (e.name[0] != '\0') k.name = e.name;
  }
  Need need_of(const Known& k) const;
  Need need_of_nobodys(const Known& k) const;
  bool may_need(const Known& k) const;

  const std::string& node_;
  std::vector<Member> members_;
  std::vector<SessionParts> sessions_;
  std::map<SessionId, Known> known_;
};

// One that nobody runs: its index node rebuilds it.
Need Look::need_of_nobodys(const Known& k) const {
  Need n;
  const Spread spread = spread_of(k.found->checkpoints, members_);
  if (spread.whole == nullptr) {
    n.why = "no checkpoint of it can be had (" + k.found->checkpoints[0].words() +
            "); `crstore rm` removes what there is";
    n.stays = true;
  } else if (in_service(members_) < spread.whole->holders.size()) {
    n.why = std::to_string(spread.whole->holders.size()) +
            " nodes are needed, one for each part, and only " +
            std::to_string(in_service(members_)) +
            " can take one; add nodes, or remove it by `crstore rm`";
    n.stays = true;
  } else if (spread.in_service == spread.whole->holders.size()) {
    n.why = "its parts are elsewhere, and are about to be removed here";
  } else {
    n.why = "its parts are to be put on other nodes";
  }
  return n;
}

Need Look::need_of(const Known& k) const {
  Need n;
  const SessionEntry& e = k.entry;
  if (k.seer.empty()) {
    n = need_of_nobodys(k);
  } else if (k.seer == node_ && (e.flags & kSessionRuns) != 0) {
    n.why =
        "it runs there, and its own part stays with it; its other parts are on other nodes as "
        "before; end it with `crckpt --then=kill`, and `crrestore " +
        k.name + "` on another node goes on";
    n.runs = n.stays = true;
  } else if ((e.flags & kSessionMended) != 0) {
    n.why = "its parts are being put on other nodes, by " + k.seer;
  } else if ((e.flags & kSessionUsesNode) != 0) {
    n.stays = (e.flags & kSessionStays) != 0;
    n.why = n.stays ? e.text : "its node " + k.seer + " is about to choose another one";
  } else if (e.parts < e.of) {
    n.why = std::to_string(e.parts) + " of " + std::to_string(e.of) + " parts of checkpoint " +
            std::to_string(e.triple.sequence) + " are in place" +
            (e.text[0] == '\0' ? "" : std::string(": ") + e.text);
  } else {
    n.why = "its parts are elsewhere, and are about to be removed here";
  }
  return n;
}

// The node cannot be asked: what lacks parts may have them there.
bool Look::may_need(const Known& k) const {
  const size_t at = find_member(members_, node_);
  if (at == members_.size() || members_[at].state != NodeState::kDown) return false;
  if ((k.entry.flags & kSessionMended) != 0) return true;
  if (!k.seer.empty() || k.found == nullptr) return false;
  const Spread spread = spread_of(k.found->checkpoints, members_);
  return spread.whole == nullptr || spread.in_service < spread.whole->holders.size();
}

Round Look::round() const {
  Round r;
  for (const auto& [id, k] : known_) {
    const bool uses = (k.entry.flags & kSessionUsesNode) != 0;
    if (k.parts == 0 && !uses && !may_need(k)) continue;
    Need n = need_of(k);
    n.name = k.name;
    n.session = to_hex(id);
    if (!n.runs) {
      r.parts += k.parts;
      r.bytes += k.bytes;
    }
    r.sent_bytes += k.entry.sent_bytes;
    r.mended |= (k.entry.flags & kSessionMended) != 0;
    r.needs.push_back(std::move(n));
  }
  return r;
}

Json needs_json(const Round& r) {
  Json left = Json::array();
  for (const Need& n : r.needs) {
    left.push_back({{"name", n.name}, {"session", n.session}, {"runs", n.runs}, {"why", n.why}});
  }
  return left;
}

Json answer_of(const std::string& node, const Round& r, const std::string& trouble) {
  Json unreachable = Json::object();
  for (const auto& [name, why] : r.unreachable) unreachable[name] = why;
  const bool drained = r.needs.empty() && !r.unreachable.contains(node);
  return {{"ok", true},         {"node", node},
          {"drained", drained}, {"left", needs_json(r)},
          {"trouble", trouble}, {"unreachable", unreachable}};
}

Json progress_json(const std::string& node, const Round& r) {
  const auto moving = std::ranges::count(r.needs, false, &Need::stays);
  return {{"event", "progress"}, {"node", node},     {"sessions", r.needs.size()},
          {"moving", moving},    {"parts", r.parts}, {"bytes", r.bytes}};
}

void pause() {
  const timespec second{1, 0};
  nanosleep(&second, nullptr);
}

// Says it to all that can be reached. On failure the text says why it is not so.
bool set_state(const RequestContext& context, const std::string& node, bool draining,
               std::map<std::string, std::string>* ret_unreachable, std::string* ret_text) {
  auto cluster = Cluster::open(context.cluster, ret_text);
  if (!cluster) {
    if (ret_text->empty()) *ret_text = cluster.error().what;
    return false;
  }
  (*cluster)->share(*context.states);   // so that this is the newest that is known of the node
  if (!context.wanted()) return false;  // so nothing has changed
  if (const auto set = context.states->set(node, draining); !set) {
    *ret_text = std::string("the store cannot remember it: ") + set.error().what;
    if (set.error().sys_errno != 0)
      *ret_text += std::string(": ") + strerror(set.error().sys_errno);
    return false;
  }
  (*cluster)->share(*context.states);
  context.look_soon();
  *ret_unreachable = (*cluster)->unreachable();
  return true;
}

}  // namespace

Surroundings surroundings_of(const RequestContext& context, Cluster& cluster) {
  Surroundings around;
  cluster.share(*context.states);
  around.own = context.cluster.members.self().name;
  around.members = context.cluster.members.list;
  for (Member& m : around.members) m.state = NodeState::kUp;
  context.states->apply(&around.members);
  bool drained_away = false, others_away = false;
  for (Member& m : around.members) {
    if (m.name == around.own) continue;
    if (!cluster.unreachable().contains(m.name)) {
      const auto sessions = cluster.sessions(m.name, "");
      for (const SessionEntry& e : sessions ? *sessions : std::vector<SessionEntry>()) {
        around.elsewhere.insert(session_id_of(e.session_id));
      }
      if (sessions) continue;
    }
    (m.state == NodeState::kDraining ? drained_away : others_away) = true;
    m.state = NodeState::kDown;
  }
  around.only_drained_away = drained_away && !others_away;
  return around;
}

Json drain_node(const RequestContext& context, const Json& request) {
  const std::string node = text_of(request, "name");
  const bool undo = flag_of(request, "undo");
  if (find_member(context.cluster.members.list, node) == context.cluster.members.list.size()) {
    return failure(node + ": no node of the member list; `crstore status` shows them all");
  }
  std::string text;
  Round r;
  if (!set_state(context, node, !undo, &r.unreachable, &text)) {
    return failure(node + (undo ? " stays drained: " : " is not drained: ") + text);
  }
  if (undo) {
    Json j = answer_of(node, r, "");
    j["drained"] = false;
    return j;
  }
  uint64_t told_ns = 0, moved_ns = rawsys::now_ns();
  unsigned stuck = 0;
  Json last;
  for (uint64_t sent = 0; context.wanted();) {
    pause();
    if (!context.states->is_draining(node)) return failure(node + ": somebody has undone it");
    auto cluster = Cluster::open(context.cluster, &text);
    if (!cluster) return failure(node + " is drained, but how far cannot be seen: " + text);
    r = Look(context, **cluster, node).round();
    r.unreachable = (*cluster)->unreachable();
    const uint64_t now = rawsys::now_ns();
    const Json left = needs_json(r), told = progress_json(node, r);
    if (left != last || sent != r.sent_bytes || r.mended) moved_ns = now;
    if (left != last || now - told_ns >= 10 * kSecond) {
      context.tell(told);
      told_ns = now;
    }
    last = left;
    sent = r.sent_bytes;
    stuck = std::ranges::all_of(r.needs, &Need::stays) ? stuck + 1 : 0;
    if (stuck >= kStuckRounds || (r.needs.empty() && stuck > 0)) return answer_of(node, r, "");
    if (now - moved_ns >= kNoProgressNs) return answer_of(node, r, "nothing has moved for 30 s");
  }
  return failure(node + " is drained further, but nobody waits for it");
}

}  // namespace cr::node
