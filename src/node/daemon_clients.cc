// SPDX-License-Identifier: MIT
// daemon_clients.cc - the requests of sessions and tools, and what they are told. See daemon.h; the
// socket itself is in daemon_socket.cc.
// Invariant: no request waits for another node or for a disk here: those that would have a thread
// of their own (Daemon::begin_work).
// Context: N; the daemon's own thread. Doc: docs/store.md, crstored(8).
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "node/daemon.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

}  // namespace

void Daemon::answer(uint64_t client, const Json& message) {
  for (Client& c : clients_) {
    if (c.number == client) c.out += dump_json(message) + "\n";
  }
}

void Daemon::on_request(Client& c, const Json& request) {
  const std::string op = text_of(request, "op");
  if (op == "protect") return on_protect(c, request);
  if (op == "committed") return on_committed(c);
  if (op == "level") return on_level(c);
  if (op == "flush") return on_flush(c, request);
  if (op == "can_protect") return on_can_protect(c, request);
  if (op == "status") return answer(c.number, status_json(c.uid));
  if (op == "place") return answer(c.number, place_json(text_of(request, "name"), c.uid));
  if (op == "repair" && rewrite(c, text_of(request, "name"))) return;
  if (op == "drain" && c.uid != 0 && c.uid != geteuid()) {
    return answer(c.number, failure("taking a node out of service is for root and the user of "
                                    "crstored (uid " +
                                    std::to_string(geteuid()) + ") alone"));
  }
  if (is_cluster_request(op)) return begin_work(c.number, c.uid, c.gid, request);
  answer(c.number, failure("crstored does not know the request \"" + op +
                           "\"; is it of another version than this program?"));
}

// Why sessions cannot be protected so here; "": they can.
std::string Daemon::cannot_protect(const store::Protection& protection) const {
  const size_t count = protection.parts(), nodes = config_.members.list.size();
  if (count == 1) return "";
  if (!config_.start_lock.empty() && config_.key_file.empty()) {
    return "--protect=" + store::to_string(protection) + " takes " + std::to_string(count) +
           " nodes, and the private crstored of this user knows none but this one: give it "
           "`members = FILE` and `key = FILE` in " +
           (config_.config_file.empty() ? std::string("its configuration") : config_.config_file) +
           ", or start a crstored for all sessions of each node; see crstored(8)";
  }
  if (count <= nodes && !no_network_.empty()) return no_network_;
  if (count <= nodes && !hub_) {
    return "this crstored has no key file, so it cannot reach other nodes; start it with --key";
  }
  return "";
}

void Daemon::on_can_protect(Client& c, const Json& request) {
  std::string text;
  const auto protection = store::parse_protection(text_of(request, "protect"), &text);
  if (protection) text = cannot_protect(*protection);
  answer(c.number, text.empty() ? Json{{"ok", true}, {"can_protect", true}} : failure(text));
}

// A session says where its images are, and how it wants to be protected.
void Daemon::on_protect(Client& c, const Json& request) {
  ProtectedSession s;
  std::string text;
  if (!from_hex(text_of(request, "session"), &s.id)) {
    return answer(c.number, failure("the session's number is none"));
  }
  s.dir = text_of(request, "dir");
  s.name = text_of(request, "name");
  auto protection = store::parse_protection(text_of(request, "protect"), &text);
  if (!protection) return answer(c.number, failure(text));
  s.protection = *protection;
  if (const auto nodes = request.find("held_by"); nodes != request.end() && nodes->is_array()) {
    for (const Json& node : *nodes) {
      if (node.is_string() && peers_.contains(node)) s.held_by.push_back(node);
    }
  }
  if (const std::string why = cannot_protect(s.protection); !why.empty()) {
    return answer(c.number, failure(why));
  }
  // Neither the image directory nor the store has to answer soon.
  struct Work {
    ProtectedSession session;
    std::vector<std::string> holders;  // that it had
    bool may = false;
  };
  auto work = std::make_shared<Work>();
  work->session = std::move(s);
  threads_->run(
      {work->session.id, StoreThreads::kWhole},
      [store = store_.get(), uid = c.uid, work] {
        struct stat st {};
        ProtectedSession& of = work->session;
        work->may = stat(of.dir.c_str(), &st) == 0 && (uid == 0 || st.st_uid == uid);
        of.uid = st.st_uid;
        // crrestore finds it by name only then.
        if (work->may) (void)store->note_source(of.id, of.dir);
        work->holders = store->holders_of(of.id);
      },
      [this, client = c.number, uid = c.uid, request, work] {
        if (work->may) return protect(client, uid, work->session, work->holders, request);
        answer(client, failure(work->session.dir +
                               ": crstored may not read this image directory; it must belong to "
                               "the session's user"));
      });
}

// The client may be gone: what it has committed before is kept all the same.
void Daemon::protect(uint64_t client, uint32_t uid, const ProtectedSession& s,
                     const std::vector<std::string>& had, const Json& request) {
  std::string text;
  const unsigned count = s.protection.parts();
  const std::vector<Member> members = members_now();
  const PlacementRequest place{members, s.id, config_.members.self().name, count,
                               config_.strict_racks};
  // Who has a part of it keeps that, under its number: a node that was added to the list since then
  // takes one part at most.
  auto kept = rebalance(place, had, &text);
  // It had none, or as many as another protection has.
  auto placed = kept ? std::move(kept) : holders(place, &text);
  if (!placed) return answer(client, failure(text));
  const std::string id = to_hex(s.id);
  if (const auto at = sessions_.find(id);
      at != sessions_.end() && !may_see(uid, at->second->session().uid)) {
    return answer(client, failure("this session is another user's"));
  }
  auto r = Replicator::make(node_for([this](const Replicator& k) { tell_safety(k); }), s,
                            placed->holders);
  if (!r) return answer(client, failure(r.error().what));
  if (const auto old = sessions_.find(id); old != sessions_.end()) end_repair(*old->second);
  sessions_[id] = std::move(*r);
  look_at_holders_ = true;
  beside_.erase(id);
  const auto c = std::ranges::find(clients_, client, &Client::number);
  if (c != clients_.end()) take_session(*c, id);
  log_("session " + s.name + " (" + id.substr(0, 8) + ") is protected by " +
       store::to_string(s.protection));
  Json j{{"ok", true},
         {"holders", placed->holders},
         {"racks_shared", placed->racks_shared},
         {"flush", config_.flush.dir}};
  if (const std::string own = config_.members.self().name; states_->is_draining(own)) {
    j["notice"] = "node " + own +
                  " is being drained: checkpoints are kept on the others as before, "
                  "but the program is to leave; end it with `crckpt --then=kill`, and "
                  "`crrestore " +
                  s.name + "` on another node goes on";
  }
  answer(client, j);
  sessions_[id]->wake(now_ns());
  std::optional<FlushChoice> own;
  if (request.contains("flush_every") || request.contains("flush_interval_ns")) {
    own = {number_of(request, "flush_every"), number_of(request, "flush_interval_ns")};
  }
  wake_flush(id, own);
  if (c != clients_.end()) return;
  Client gone;
  gone.session = id;
  leave_session(gone);
}

void Daemon::on_committed(Client& c) {
  const auto s = sessions_.find(c.session);
  if (s == sessions_.end()) return;
  s->second->wake(now_ns());
  wake_flush(c.session);
}

// A session that wants to know where it is: also a sign of life.
void Daemon::on_level(Client& c) {
  const auto s = sessions_.find(c.session);
  if (s == sessions_.end()) return answer(c.number, failure("no session is protected here"));
  tell_level(*s->second);
  if (!flush_) return;
  for (const auto& [session, status] : flush_->all()) {
    if (to_hex(session.id) == c.session) tell_flushed(c.session, status);
  }
}

void Daemon::tell_safety(const Replicator& r) {
  note_full(r);
  tell_level(r);
  if (!r.is_rewriting() && !r.has_ended()) end_repair(r);
}

void Daemon::tell_link(const std::string& node) {
  for (const auto& [id, session] : sessions_) {
    if (std::ranges::count(session->holders(), node) != 0) tell_level(*session);
  }
}

// "": it can be reached, or nobody has tried yet.
std::string Daemon::link_trouble(const std::string& node) const {
  const auto p = peers_.find(node);
  if (p == peers_.end()) return node == config_.members.self().name ? "" : no_network_;
  return p->second.up ? "" : p->second.trouble;
}

// A part counts here as long as its holder can be reached: what lies on a node that is gone does
// not survive the loss of this one.
void Daemon::tell_level(const Replicator& r) {
  const Safety& s = r.safety();
  const std::string& own = config_.members.self().name;
  std::string trouble = r.trouble();
  unsigned parts = 0, elsewhere = 0;
  for (unsigned h = 0; h < r.holders().size(); h++) {
    const std::string& node = r.holders()[h];
    const std::string away = link_trouble(node);
    const std::string& why = r.trouble(h).empty() ? away : r.trouble(h);
    if (!why.empty()) trouble = node + ": " + why;
    if (is_none(s.triple) || !away.empty() || !(r.whole(h) == s.triple)) continue;
    parts++;
    if (node != own) elsewhere++;
  }
  const bool safe = s.safe_ns != 0 && elsewhere >= r.session().protection.data;
  const Json j{{"event", "level"},
               {"epoch", s.triple.epoch},
               {"sequence", s.triple.sequence},
               {"attempt", s.triple.attempt},
               {"level", safe        ? 2
                         : parts > 0 ? 1
                                     : 0},
               {"parts", parts},
               {"of", r.holders().size()},
               {"holders", r.holders()},
               {"sending", r.is_sending()},
               {"window_ns", safe ? s.safe_ns - s.committed_ns : 0},
               {"trouble", trouble}};
  const std::string id = to_hex(r.session().id);
  for (Client& c : clients_) {
    if (c.session == id) c.out += dump_json(j) + "\n";
  }
}

// The agent is gone, and with it the program perhaps: what it committed last is taken on all the
// same.
void Daemon::client_gone(Client& c) {
  {
    const std::lock_guard held(mutex_);
    present_.erase(c.number);
  }
  leave_session(c);
}

void Daemon::leave_session(Client& c) {
  const auto s = sessions_.find(c.session);
  if (s == sessions_.end()) return;
  s->second->wake(now_ns());
  s->second->end();
  wake_flush(c.session);
  if (flush_) flush_->end(s->second->session().id);
  c.session.clear();
}

// From now on this connection protects the session, and its end is the session's. One that did so
// before may be one that its agent has given up.
void Daemon::take_session(Client& c, const std::string& id) {
  if (c.session != id) leave_session(c);
  for (Client& other : clients_) {
    if (other.session == id) other.session.clear();
  }
  c.session = id;
}

Json Daemon::status_json(uint32_t uid) {
  Json j{{"ok", true},
         {"node", config_.members.self().name},
         {"cluster", config_.cluster},
         {"store", config_.store_dir},
         {"durable", config_.durable ? "power" : "crash"},
         {"dram_bytes", config_.dram_bytes},
         {"lent_bytes", holder_ ? holder_->lent_bytes() : 0},
         {"transfers", holder_ ? holder_->transfers() : 0},
         {"private", !config_.start_lock.empty()},
         {"pid", getpid()}};
  Json nodes = Json::array();
  for (const Member& m : config_.members.list) {
    Json n{{"name", m.name}, {"address", address_of(m)}, {"rack", m.rack}};
    n["draining"] = states_->is_draining(m.name);
    const auto p = peers_.find(m.name);
    if (m.name == config_.members.self().name) {
      n["state"] = "this node";
    } else if (p == peers_.end()) {
      n["state"] = no_network_.empty() ? "this node has no key" : no_network_;
    } else if (p->second.up) {
      const auto status = hub_->status(p->second.link);
      n["state"] = "connected";
      if (status) n["rtt_ns"] = status->rtt_ns;
    } else {
      n["state"] = p->second.trouble.empty() ? "not needed yet" : p->second.trouble;
    }
    nodes.push_back(n);
  }
  j["nodes"] = nodes;
  Json sessions = Json::array();
  for (const auto& [id, r] : sessions_) {
    if (!may_see(uid, r->session().uid)) continue;
    const Safety& s = r->safety();
    Json parts = Json::array();
    for (unsigned h = 0; h < r->holders().size(); h++) {
      parts.push_back(
          {{"node", r->holders()[h]},
           {"sequence", r->whole(h).sequence},
           {"trouble", r->trouble(h).empty() ? link_trouble(r->holders()[h]) : r->trouble(h)}});
    }
    sessions.push_back({{"name", r->session().name},
                        {"session", id},
                        {"dir", r->session().dir},
                        {"protect", store::to_string(r->session().protection)},
                        {"epoch", s.triple.epoch},
                        {"sequence", s.triple.sequence},
                        {"safe", s.safe_ns != 0},
                        {"window_ns", s.safe_ns != 0 ? s.safe_ns - s.committed_ns : 0},
                        {"sent_bytes", r->sent_bytes()},
                        {"parts", parts}});
  }
  j["sessions"] = sessions;
  if (flush_) j["flush"] = flush_json(uid);
  return j;
}

Json Daemon::place_json(const std::string& name, uint32_t uid) {
  for (const auto& [id, r] : sessions_) {
    if (!may_see(uid, r->session().uid)) continue;
    if (id != name && r->session().name != name && !id.starts_with(name)) continue;
    const std::vector<Member> members = members_now();
    const PlacementRequest place{members, r->session().id, config_.members.self().name,
                                 r->session().protection.parts(), config_.strict_racks};
    std::string why;
    const auto chosen = node::holders(place, &why);
    return {{"ok", true},
            {"holders", r->holders()},
            {"index", index_node(members, r->session().id)},
            {"text",
             explain(place, chosen && chosen->holders == r->holders() ? std::vector<std::string>()
                                                                      : r->holders())}};
  }
  return failure("no session " + name + " is protected on this node; `crstore ls` lists all");
}

}  // namespace cr::node
