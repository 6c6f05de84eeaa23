// SPDX-License-Identifier: MIT
// daemon_flush.cc - what a crstored does for level 3: tells the thread that flushes about sessions,
// and sessions and tools about what has been flushed; see daemon.h.
// Invariant: nothing here touches the shared file system, which may not answer.
// Context: N; the daemon's own thread.
#include <algorithm>

#include "node/daemon.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kStuckNs = 10 * kSecond;

// All answers to that request say that they are: a session's connection has others as well.
Json flush_failure(const std::string& text) {
  return {{"op", "flush"}, {"ok", false}, {"error", text}};
}

FlushedSession flushed_session(const ProtectedSession& s) {
  return {s.id, s.name, s.dir, s.protection, s.uid};
}

bool is_called(const SessionId& id, const std::string& own_name, const std::string& name) {
  return own_name == name || (name.size() >= 4 && to_hex(id).starts_with(name));
}

// A session that has ended here: its images may still be there. Of several the newest.
Result<FlushedSession> ended_session(const PartStore& store, const std::string& name,
                                     uint32_t uid) {
  FlushedSession found;
  uint64_t realtime_ns = 0;
  for (const format::PartEntry& e : store.list()) {
    const SessionId id = session_id_of(e.session_id);
    if (!may_see(uid, e.uid) || !is_called(id, e.name, name) || e.realtime_ns < realtime_ns) {
      continue;
    }
    const std::string dir = store.source_of(id);
    if (dir.empty()) continue;
    realtime_ns = e.realtime_ns;
    const auto kind = static_cast<store::Protection::Kind>(e.kind);
    found = {id, e.name, dir, {kind, e.data_parts, e.parity_parts}, e.uid};
  }
  if (found.dir.empty()) return Error{Errc::kNotFound, 0, "no such session"};
  return found;
}

}  // namespace

void Daemon::start_flush() {
  if (config_.flush.dir.empty()) return;
  FlushOptions options = config_.flush;
  options.node = config_.members.self().name;
  options.durable = config_.durable;
  FlushThread::Events events;
  events.log = log_;
  events.changed = [this](const SessionId& id, const FlushStatus& status) {
    later([this, id, status] { flush_changed(id, status); });
  };
  flush_look_ = std::make_shared<FlushLook>(options.dir);
  flush_ = std::make_unique<FlushThread>(std::move(options), config_.flush_bytes_per_second,
                                         std::move(events));
  if (!flush_->is_running()) log_("nothing is flushed, as no thread can be made; start it again");
}

void Daemon::wake_flush(const std::string& id, const std::optional<FlushChoice>& own) {
  const auto s = sessions_.find(id);
  if (flush_ && s != sessions_.end()) flush_->wake(flushed_session(s->second->session()), own);
}

void Daemon::on_flush(Client& c, const Json& request) {
  const std::string name = text_of(request, "name");
  if (!flush_) {
    return answer(c.number,
                  flush_failure("this crstored has no directory to flush to; " +
                                (config_.start_lock.empty()
                                     ? std::string("start it with --flush DIR")
                                     : "give it `flush = DIR` in " + config_.config_file)));
  }
  std::vector<FlushedSession> found;
  for (const auto& [id, r] : sessions_) {
    const ProtectedSession& s = r->session();
    if (may_see(c.uid, s.uid) && is_called(s.id, s.name, name)) found.push_back(flushed_session(s));
  }
  if (found.size() == 1) return begin_flush(c.number, found[0]);
  if (found.size() > 1) {
    return answer(c.number,
                  flush_failure(name + ": several sessions are called so: " + to_hex(found[0].id) +
                                ", " + to_hex(found[1].id) + "; give the beginning of the number"));
  }
  std::string text;
  const auto work = [this, name, client = c.number, uid = c.uid] {
    auto ended = ended_session(*store_, name, uid);
    if (ended) return later([this, client, s = *ended] { begin_flush(client, s); });
    post(client,
         flush_failure(name + ": no such session has its images on this node; `crstore ls` lists "
                              "all, ask the node that runs it"));
  };
  if (!requests_->run(c.uid, work, &text)) answer(c.number, flush_failure(text));
}

void Daemon::begin_flush(uint64_t client, const FlushedSession& session) {
  flush_waiters_.push_back({client, flush_->request(session), session});
}

// It has news of a session.
void Daemon::flush_changed(const SessionId& id, const FlushStatus& status) {
  tell_flushed(to_hex(id), status);
  std::erase_if(flush_waiters_, [&](const FlushWaiter& w) {
    if (w.session.id != id) return false;
    if (status.answered < w.number) {
      answer(w.client,
             {{"event", "progress"}, {"done", status.done_bytes}, {"total", status.total_bytes}});
      return false;
    }
    Json j = status.answer.empty() ? Json{{"op", "flush"}, {"ok", true}}
                                   : flush_failure(w.session.name + ": " + status.answer);
    j["name"] = w.session.name;
    j["session"] = to_hex(id);
    j["epoch"] = status.newest.epoch;
    j["sequence"] = status.newest.sequence;
    j["attempt"] = status.newest.attempt;
    j["path"] = status.path;
    answer(w.client, j);
    return true;
  });
}

void Daemon::tell_flushed(const std::string& id, const FlushStatus& status) {
  const Json j{{"event", "level"},
               {"level", 3},
               {"epoch", status.newest.epoch},
               {"sequence", status.newest.sequence},
               {"attempt", status.newest.attempt},
               {"path", status.path},
               {"trouble", flush_stuck_.empty() ? status.trouble : flush_stuck_}};
  for (Client& c : clients_) {
    if (c.session == id) c.out += dump_json(j) + "\n";
  }
}

// Says once that the file system stands still, and once that it goes on.
uint64_t Daemon::watch_flush(uint64_t now) {
  if (!flush_) return ~uint64_t{0};
  const uint64_t since = flush_->busy_since_ns();
  const bool stuck = since != 0 && now >= since + kStuckNs;
  if (stuck != !flush_stuck_.empty()) {
    flush_stuck_ = stuck ? config_.flush.dir +
                               ": the file system does not answer; see its server and the network"
                         : "";
    log_("flush: " + (stuck ? flush_stuck_ : config_.flush.dir + ": it answers again"));
    for (const auto& [s, status] : flush_->all()) tell_flushed(to_hex(s.id), status);
  }
  return since != 0 ? std::max(since + kStuckNs, now + kSecond) : ~uint64_t{0};
}

Json Daemon::flush_json(uint32_t uid) {
  const FlushOptions& o = config_.flush;
  Json sessions = Json::array();
  for (const auto& [s, status] : flush_->all()) {
    if (!may_see(uid, s.uid)) continue;
    const bool busy = !is_none(status.current);
    sessions.push_back({{"name", s.name},
                        {"session", to_hex(s.id)},
                        {"epoch", status.newest.epoch},
                        {"sequence", status.newest.sequence},
                        {"path", status.path},
                        {"flushing", busy ? status.current.sequence : 0},
                        {"done", busy ? status.done_bytes : 0},
                        {"total", busy ? status.total_bytes : 0},
                        {"trouble", status.trouble}});
  }
  return {{"dir", o.dir},
          {"every", o.every},
          {"interval_ns", o.period_ns},
          {"bytes_per_second", config_.flush_bytes_per_second},
          {"zstd", o.compress},
          {"keep", to_string(o.keep)},
          {"trouble", flush_stuck_},
          {"sessions", sessions}};
}

}  // namespace cr::node
