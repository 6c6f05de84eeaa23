// SPDX-License-Identifier: MIT
// daemon_look.cc - what a node does about other nodes: takes parts from those that are gone or
// drained, mends what lacks parts, removes parts that others have by now; and what nodes tell each
// other for that. See daemon.h.
// Invariant: a part is removed only when this node, which sees to its session, knows that the
// holders have all parts of a checkpoint that is not older; it says so on the link on which it
// would offer the next part.
// Context: N; the daemon's own thread. Doc: docs/store.md, "Drain".
#include <string.h>

#include <algorithm>
#include <future>

#include "format/node_messages_reader.h"
#include "node/daemon.h"
#include "node/disk_words.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using namespace format;
using rawsys::now_ns;

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kLookNs = 60 * kSecond;  // where nothing is repaired by itself
constexpr size_t kMostMending = 2;          // images of sessions are made for it

std::string short_name(const SessionId& id) { return to_hex(id).substr(0, 8); }

}  // namespace

// Not a session that runs here, whose parts may be written anew from its own images.
bool Daemon::is_repair(const std::string& id) const {
  const auto at = repairs_.find(id);
  return at != repairs_.end() && !at->second.dir.empty();
}

// Other nodes take the places of those that are gone or drained, as far as there are any.
void Daemon::replace_holders() {
  const std::vector<Member> members = members_now();
  const std::string& own = config_.members.self().name;
  const auto state = [&](const std::string& name) {
    const size_t i = find_member(members, name);
    return i == members.size() ? NodeState::kDown : members[i].state;
  };
  for (auto& [id, session] : sessions_) {
    const bool needed = std::ranges::any_of(session->holders(), [&](const std::string& name) {
      return name != own && state(name) != NodeState::kUp;
    });
    if (!needed) {
      beside_[id].cannot_replace.clear();
      continue;
    }
    const PlacementRequest place{members, session->session().id, own,
                                 session->session().protection.parts(), config_.strict_racks};
    std::string text;
    auto placed = replace(place, session->holders(), &text);
    if (!placed) {
      std::string& said = beside_[id].cannot_replace;
      if (said != text) log_("session " + session->session().name + ": " + text);
      said = text;
      continue;
    }
    beside_[id] = {};
    for (const unsigned h : placed->moved) {
      const std::string& old = session->holders()[h];
      log_("session " + session->session().name + ": part " + std::to_string(h) + " goes to " +
           placed->holders[h] + ", as " + old +
           (state(old) == NodeState::kDraining ? " is drained" : " is gone"));
    }
    beside_[id].moved = true;
    session->set_holders(placed->holders);
  }
}

// The holders have all parts of a checkpoint that survives the loss of this node, or of which there
// is one part only: what is elsewhere of it, or older, may go.
void Daemon::note_full(const Replicator& r) {
  const Safety& s = r.safety();
  if (s.parts != r.holders().size() || (s.safe_ns == 0 && r.holders().size() > 1)) return;
  Beside& b = beside_[to_hex(r.session().id)];
  // The first one: of a session that comes back there are parts of its last life elsewhere.
  if (b.moved || is_none(b.full)) look_ns_ = std::min(look_ns_, now_ns());
  b.full = s.triple;
  b.moved = false;
}

void Daemon::look_around(uint64_t now) {
  if (!hub_ || looking_) return;
  if (look_ns_ == 0) look_ns_ = now + kSecond;
  if (now < look_ns_) return;
  look_ns_ =
      now + (config_.repair_after_ns == 0 ? kLookNs : std::max(config_.repair_after_ns, kSecond));
  begin_look();
}

void Daemon::begin_look() {
  std::set<SessionId> here = mending_;
  for (const auto& [id, session] : sessions_) here.insert(session->session().id);
  looking_ = start_thread([this, context = context_of(0, 0, 0), here = std::move(here)] {
    std::string text;
    LookResult result;
    if (auto cluster = Cluster::open(context.cluster, &text)) {
      Surroundings around = surroundings_of(context, **cluster);
      around.here = here;
      for (const auto* seen : {&around.here, &around.elsewhere}) {
        for (const SessionId& id : *seen) (void)store_->removed().forget(id);
      }
      std::vector<FoundPart> parts = (*cluster)->list(nullptr);
      const auto removed = take_removed(&parts, store_->removed(), around);
      result = look(parts, around);
      result.stale.insert(result.stale.end(), removed.begin(), removed.end());
    }
    later([this, result = std::move(result)] { end_look(result); });
  });
}

// What parts are missing for longer than --repair-after is mended; what has to move, at once.
void Daemon::end_look(const LookResult& result) {
  looking_ = false;
  if (end_ns_ != ~uint64_t{0}) return;  // it was given up, so it has not seen all
  const uint64_t now = now_ns();
  std::map<SessionId, uint64_t> lacking;
  for (const SessionId& id : result.lacking) {
    const auto known = lacking_.find(id);
    lacking[id] = known == lacking_.end() ? now : known->second;
    if (config_.repair_after_ns == 0 || now - lacking[id] < config_.repair_after_ns) continue;
    mend(id);
  }
  lacking_ = std::move(lacking);
  for (const SessionId& id : result.displaced) mend(id);
  find_stale(result);
  if (!result.displaced.empty()) look_ns_ = std::min(look_ns_, now + kSecond);
}

void Daemon::mend(const SessionId& id) {
  const std::string hex = to_hex(id);
  if (sessions_.contains(hex) || mending_.contains(id) || mending_.size() >= kMostMending) return;
  mending_.insert(id);
  const bool begun = start_thread([this, context = context_of(0, 0, 0), id, hex] {
    const Json result = do_request(context, {{"op", "repair"}, {"name", hex}});
    if (result.is_null()) return;  // it is under way, and end_repair() will be called
    later([this, id, result] {
      mending_.erase(id);
      log_("session " + short_name(id) + " cannot be repaired: " + text_of(result, "error"));
    });
  });
  if (!begun) mending_.erase(id);
}

// Parts of each node that may go; whether they still may is asked again before it is told.
void Daemon::find_stale(const LookResult& result) {
  drops_.clear();
  look_at_holders_ = true;  // links to them may be needed
  for (const StalePart& s : result.stale) drops_[s.node].push_back(s.drop);
  for (const auto& [hex, session] : sessions_) {
    const Triple full = beside_[hex].full;
    if (is_repair(hex) || is_none(full)) continue;
    const std::vector<StalePart> stale =
        stale_of_running(result.of_here, session->session().id, full, session->holders());
    for (const StalePart& s : stale) drops_[s.node].push_back(s.drop);
  }
}

// Of a session that is seen to here: have its holders all parts of that checkpoint, or of a newer
// one?
bool Daemon::may_be_dropped(const std::string& node, const DropParts& drop) {
  const SessionId id = session_id_of(drop.session_id);
  const auto at = sessions_.find(to_hex(id));
  if (at == sessions_.end()) return !mending_.contains(id);
  const auto& holders = at->second->holders();
  if (drop.holder < holders.size() && holders[drop.holder] == node) return false;
  const Triple full = beside_[to_hex(id)].full;
  return !is_repair(to_hex(id)) && !is_none(full) && !is_newer(drop.triple, full);
}

void Daemon::drop_stale() {
  for (auto node = drops_.begin(); node != drops_.end();) {
    const bool own = node->first == config_.members.self().name;
    const LinkId link = own ? LinkId::kNone : link_to(node->first);
    if (!own && link == LinkId::kNone) {
      ++node;
      continue;
    }
    for (const DropParts& drop : node->second) {
      if (!may_be_dropped(node->first, drop)) continue;
      if (own) {
        on_drop(drop);
      } else {
        (void)send_struct(*hub_, link, kDropParts, drop);
      }
    }
    node = drops_.erase(node);
  }
}

void Daemon::on_drop(const DropParts& drop) {
  const SessionId id = session_id_of(drop.session_id);
  const auto at = sessions_.find(to_hex(id));
  if (at != sessions_.end() && !is_repair(to_hex(id))) {
    const auto& holders = at->second->holders();
    const std::string& own = config_.members.self().name;
    if (drop.holder < holders.size() && holders[drop.holder] == own) return;  // it runs here
  }
  struct Outcome {
    Error error;
    unsigned files = 0;
  };
  auto outcome = std::make_shared<Outcome>();
  threads_->run(
      {id, drop.holder},
      [this, id, drop, outcome] {
        const auto dropped = store_->drop(id, drop.holder, drop.triple);
        outcome->error = dropped.error();
        outcome->files = dropped ? *dropped : 0;
      },
      [this, id, drop, outcome] {
        const std::string what =
            "part " + std::to_string(drop.holder) + " of session " + short_name(id);
        if (outcome->error.code != Errc::kOk) {
          log_(what +
               " is on other nodes, but cannot be removed here: " + words_of(outcome->error));
        } else if (outcome->files > 0) {
          log_(what + " was removed: other nodes have it, or the session was removed");
        }
      });
}

void Daemon::share_states(LinkId link) {
  bool more = true;
  for (uint32_t skip = 0; more; skip += kMostStatesAtOnce) {
    (void)hub_->send(link, kShareStates, states_->message(0, skip, &more));
  }
}

// Whose messages carry an earlier epoch than this node's does not know all changes yet.
void Daemon::share_changes() {
  const uint64_t epoch = states_->epoch();
  hub_->set_epoch(epoch);
  for (auto& [name, peer] : peers_) {
    if (!peer.up || peer.told_epoch >= epoch) continue;
    peer.told_epoch = epoch;
    const auto status = hub_->status(peer.link);
    if (status && status->peer_epoch < epoch) share_states(peer.link);
  }
}

// What is new is written down, which may take a disk's time.
void Daemon::on_states(LinkId link, uint16_t type, std::span<const uint8_t> payload) {
  struct Work {
    std::vector<uint8_t> payload;
    bool merged = false;
  };
  const auto theirs = read_node_states_message(payload.data(), payload.size());
  if (!theirs)
    return log_("a message about nodes' states was ignored: " + words_of(theirs.error()));
  auto work = std::make_shared<Work>();
  work->payload.assign(payload.begin(), payload.end());
  threads_->run(
      {SessionId{}, StoreThreads::kStates},
      [states = states_.get(), work] {
        const auto all = read_node_states_message(work->payload.data(), work->payload.size());
        work->merged = all && states->merge(*all);
      },
      [this, work, link, type, request = theirs->head.request, skip = theirs->head.skip] {
        if (work->merged) look_ns_ = std::min(look_ns_, now_ns());
        bool more = false;
        if (type == kStates) return;
        (void)hub_->send(link, kStates, states_->message(request, skip, &more));
      });
}

std::vector<SessionEntry> Daemon::sessions_here(const std::string& about) {
  std::vector<SessionEntry> all;
  const auto put = [](auto& field, const std::string& text) {
    memcpy(field, text.data(), std::min(text.size(), sizeof(field) - 1));
  };
  for (const auto& [hex, r] : sessions_) {
    SessionEntry e{};
    const Safety& s = r->safety();
    memcpy(e.session_id, r->session().id.data(), sizeof(e.session_id));
    e.triple = s.triple;
    e.sent_bytes = r->sent_bytes();
    e.flags = is_repair(hex) ? kSessionMended : kSessionRuns;
    if (std::ranges::count(r->holders(), about) != 0) e.flags |= kSessionUsesNode;
    e.parts = s.parts;
    e.of = static_cast<uint32_t>(r->holders().size());
    put(e.name, r->session().name);
    if (const std::string& cannot = beside_[hex].cannot_replace; !cannot.empty()) {
      e.flags |= kSessionStays;
      put(e.text, cannot);
    }
    for (unsigned h = 0; h < r->holders().size() && e.text[0] == '\0'; h++) {
      const std::string away = link_trouble(r->holders()[h]);
      const std::string& why = r->trouble(h).empty() ? away : r->trouble(h);
      if (!why.empty()) put(e.text, r->holders()[h] + ": " + why);
    }
    all.push_back(e);
  }
  for (const SessionId& id : mending_) {
    if (sessions_.contains(to_hex(id))) continue;
    SessionEntry e{};
    memcpy(e.session_id, id.data(), sizeof(e.session_id));
    e.flags = kSessionMended;
    all.push_back(e);
  }
  return all;
}

void Daemon::on_ask_sessions(LinkId link, const AskSessions& question) {
  const std::string about(question.node, strnlen(question.node, sizeof(question.node)));
  send_list<SessionList>(*hub_, link, kSessions, question.request, sessions_here(about),
                         question.skip, kMostSessionEntries);
}

bool Daemon::on_state_message(LinkId link, uint16_t type, std::span<const uint8_t> payload) {
  if (type == kShareStates || type == kStates) {
    on_states(link, type, payload);
  } else if (AskSessions question; type == kAskSessions && read_struct(payload, &question)) {
    on_ask_sessions(link, question);
  } else if (DropParts drop; type == kDropParts && read_struct(payload, &drop)) {
    on_drop(drop);
  } else {
    return false;
  }
  return true;
}

bool Daemon::is_wanted(uint64_t client) {
  const std::lock_guard held(mutex_);
  return !ending_ && (client == 0 || present_.contains(client));  // 0: this node itself
}

// From a thread of a request. Empty if the daemon ends before it has answered.
std::vector<SessionEntry> Daemon::ask_own_thread(uint64_t client, const std::string& about) {
  auto promise = std::make_shared<std::promise<std::vector<SessionEntry>>>();
  auto future = promise->get_future();
  later([this, promise, about] { promise->set_value(sessions_here(about)); });
  while (is_wanted(client)) {
    if (future.wait_for(std::chrono::milliseconds(100)) == std::future_status::ready) {
      return future.get();
    }
  }
  return {};
}

}  // namespace cr::node
