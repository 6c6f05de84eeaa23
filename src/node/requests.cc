// SPDX-License-Identifier: MIT
// requests.cc - the requests of people that ask other nodes; see daemon.h.
// Invariant: files are made and removed with the rights of the user who asks; nobody sees or gets
// another user's session, but root.
// Context: N; a thread of its own each.
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "node/daemon.h"
#include "node/image_maker.h"
#include "node/recovery.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

constexpr unsigned kMostLooks = 10;
constexpr int kLookAgainMs = 30;

Json failure(const std::string& text) { return {{"ok", false}, {"error", text}}; }

Json triple_json(const format::Triple& t) {
  return {{"epoch", t.epoch}, {"sequence", t.sequence}, {"attempt", t.attempt}};
}

// All that is known of one session.
struct Found {
  SessionId id{};
  std::string name;
  uint32_t uid = 0;
  std::vector<Available> checkpoints;
};

std::vector<Found> sessions_of(const std::vector<FoundPart>& parts, uint32_t uid) {
  std::vector<SessionId> ids;
  for (const FoundPart& p : parts) {
    if (uid != 0 && p.entry.uid != uid) continue;
    const SessionId id = session_id_of(p.entry.session_id);
    if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
  }
  std::vector<Found> all;
  for (const SessionId& id : ids) {
    std::vector<FoundPart> own;
    std::ranges::copy_if(parts, std::back_inserter(own), [&](const FoundPart& p) {
      return session_id_of(p.entry.session_id) == id;
    });
    Found f;
    f.id = id;
    f.name = own[0].entry.name;
    f.uid = own[0].entry.uid;
    f.checkpoints = available(own);
    all.push_back(std::move(f));
  }
  std::ranges::sort(all, {}, &Found::name);
  return all;
}

bool has_whole(const Found& f) { return std::ranges::any_of(f.checkpoints, &Available::is_whole); }

bool has_all_parts(const Found& f) {
  return std::ranges::any_of(f.checkpoints,
                             [](const Available& a) { return a.parts() == a.holders.size(); });
}

bool same(const std::vector<FoundPart>& a, const std::vector<FoundPart>& b) {
  return std::ranges::equal(a, b, [](const FoundPart& x, const FoundPart& y) {
    return x.node == y.node && x.entry.triple == y.entry.triple &&
           x.entry.holder == y.entry.holder && x.entry.layout == y.entry.layout &&
           session_id_of(x.entry.session_id) == session_id_of(y.entry.session_id);
  });
}

// What there is, of all sessions or of one. Nodes are asked one after the other, so of a session
// that runs each may tell of another moment. Where something is missing they are asked again, until
// it is there or nothing changes any more.
std::vector<Found> look(Cluster& cluster, const SessionId* only, uint32_t uid,
                        bool (*is_good)(const Found&)) {
  std::vector<FoundPart> parts = cluster.list(only);
  for (unsigned i = 1;; i++) {
    std::vector<Found> found = sessions_of(parts, uid);
    if (i == kMostLooks || std::ranges::all_of(found, is_good)) return found;
    poll(nullptr, 0, kLookAgainMs);
    std::vector<FoundPart> now = cluster.list(only);
    if (same(parts, now)) return found;
    parts = std::move(now);
  }
}

// By name, or by the beginning of its number. Several: an error that lists them.
const Found* choose(const std::vector<Found>& all, const std::string& name, const Cluster& cluster,
                    std::string* ret_text) {
  const Found* found = nullptr;
  for (const Found& f : all) {
    if (f.name != name && (name.size() < 4 || !to_hex(f.id).starts_with(name))) continue;
    if (found != nullptr) {
      *ret_text = name + ": several sessions are called so: " + to_hex(found->id) + ", " +
                  to_hex(f.id) + "; give the beginning of the number";
      return nullptr;
    }
    found = &f;
  }
  if (found == nullptr) {
    *ret_text = name + ": no node that can be reached keeps parts of such a session";
    for (const auto& [node, why] : cluster.unreachable()) *ret_text += "; " + node + ": " + why;
    *ret_text += "; `crstore ls` lists all";
  }
  return found;
}

Json checkpoint_json(const Available& a) {
  Json j = triple_json(a.triple);
  j["protect"] = store::to_string(a.protection);
  j["parts"] = a.parts();
  j["of"] = a.holders.size();
  j["whole"] = a.is_whole();
  j["image_bytes"] = a.like.image_bytes;
  j["realtime_ns"] = a.like.realtime_ns;
  Json holders = Json::array();
  for (size_t h = 0; h < a.holders.size(); h++) {
    Json nodes = Json::array();
    uint64_t stored = 0;
    for (const FoundPart& p : a.holders[h]) {
      nodes.push_back(p.node);
      stored += p.entry.stored_bytes;
    }
    holders.push_back({{"part", h}, {"nodes", nodes}, {"stored_bytes", stored}});
  }
  j["holders"] = holders;
  return j;
}

Json session_json(const Found& f) {
  Json checkpoints = Json::array();
  for (const Available& a : f.checkpoints) checkpoints.push_back(checkpoint_json(a));
  return {
      {"name", f.name}, {"session", to_hex(f.id)}, {"uid", f.uid}, {"checkpoints", checkpoints}};
}

Json unreachable_json(const Cluster& cluster) {
  Json j = Json::object();
  for (const auto& [node, why] : cluster.unreachable()) j[node] = why;
  return j;
}

// The newest that is whole, or the one that is asked for.
const Available* choose_checkpoint(const Found& f, uint64_t sequence, std::string* ret_text) {
  std::string why;
  for (const Available& a : f.checkpoints) {
    if (sequence != 0 && a.triple.sequence != sequence) continue;
    if (a.is_whole()) return &a;
    why += "; checkpoint " + std::to_string(a.triple.sequence) + ": " + a.words();
  }
  *ret_text = f.name + ": " +
              (sequence != 0 ? "checkpoint " + std::to_string(sequence) + " cannot be had"
                             : "no checkpoint can be had") +
              (why.empty() ? "" : why);
  return nullptr;
}

// Files of this thread are the user's from now on.
void become(const RequestContext& context) {
  if (geteuid() != 0 || context.uid == 0) return;
  syscall(SYS_setgroups, 0, nullptr);
  setfsgid(context.gid);
  setfsuid(context.uid);
}

// Images of the session that are on this node and not older than what the parts give.
std::string local_image(const RequestContext& context, const Found& f, const Json& request,
                        const Available* best) {
  for (const std::string& dir : {text_of(request, "dir"), context.cluster.store->source_of(f.id)}) {
    if (dir.empty()) continue;
    const auto image = SessionImage::open(dir);
    if (!image || session_id_of((*image)->super().session_id) != f.id) continue;
    if (context.uid != 0 && (*image)->uid() != context.uid) continue;
    const uint64_t sequence = number_of(request, "sequence");
    if (sequence != 0 && (*image)->triple().sequence != sequence) continue;
    if (best == nullptr || !is_newer(best->triple, (*image)->triple())) return dir;
  }
  return "";
}

// Makes an image of the newest checkpoint, or of the one that is asked for. If newer ones are
// written over it meanwhile, of one of those. f, ret: what was known and chosen last.
Result<RecoveryResult> make_newest(Cluster& cluster, const std::string& dir, bool durable,
                                   uint64_t sequence, Found* f, const Available** ret,
                                   const std::function<void(const RecoveryProgress&)>& progress,
                                   std::string* ret_text) {
  for (unsigned i = 1;; i++) {
    *ret = choose_checkpoint(*f, sequence, ret_text);
    if (*ret == nullptr) return Error{Errc::kNotWhole, 0, "no checkpoint can be had"};
    auto made = make_image(cluster, **ret, dir, durable, progress, ret_text);
    if (made) return made;
    *ret_text =
        f->name + ": checkpoint " + std::to_string((*ret)->triple.sequence) + ": " + *ret_text;
    if (made.error().code != Errc::kNotFound) return made.error();
    if (i == kMostLooks) {
      *ret_text +=
          "; newer checkpoints are written over it faster than it can be read: try again, "
          "or while the program takes fewer of them";
      return made.error();
    }
    const std::vector<Found> now = look(cluster, &f->id, 0, has_whole);
    if (now.empty()) return made.error();
    *f = now[0];
  }
}

Json get(const RequestContext& context, Cluster& cluster, const Found& f, const Json& request) {
  std::string text;
  const Available* a = choose_checkpoint(f, number_of(request, "sequence"), &text);
  if (flag_of(request, "local")) {
    if (const std::string dir = local_image(context, f, request, a); !dir.empty()) {
      return {{"ok", true},     {"dir", dir},
              {"local", true},  {"session", to_hex(f.id)},
              {"name", f.name}, {"protect", store::to_string(f.checkpoints[0].protection)}};
    }
  }
  if (a == nullptr) {
    for (const auto& [node, why] : cluster.unreachable()) text += "; " + node + ": " + why;
    return failure(text);
  }
  const std::string dir = text_of(request, "dir");
  if (!dir.starts_with('/')) return failure(dir + ": give an absolute path");
  become(context);
  Found newest = f;
  uint64_t told_ns = 0;
  const auto progress = [&](const RecoveryProgress& p) {
    const uint64_t ns = rawsys::now_ns();
    if (ns - told_ns < 200'000'000 && p.done_bytes != p.total_bytes) return;
    told_ns = ns;
    context.tell({{"event", "progress"},
                  {"done", p.done_bytes * kPageSize * a->protection.data},
                  {"total", p.total_bytes * kPageSize * a->protection.data}});
  };
  const auto made = make_newest(cluster, dir, context.durable, number_of(request, "sequence"),
                                &newest, &a, progress, &text);
  if (!made) return failure(text);
  Json j{{"ok", true}, {"dir", dir}, {"session", to_hex(f.id)}, {"name", f.name}};
  j["protect"] = store::to_string(a->protection);
  j["bytes"] = made->bytes;
  j["decoded_rows"] = made->decoded_rows;
  j["damaged"] = made->damaged;
  j.update(triple_json(a->triple));
  return j;
}

// The newest checkpoint that can be had is made an image here, and its parts are written anew from
// that. The answer comes later.
Json repair(const RequestContext& context, Cluster& cluster, const Found& f) {
  std::string text;
  const Available* a = choose_checkpoint(f, 0, &text);
  if (a == nullptr) return failure(text);
  const Surroundings around = surroundings_of(context, cluster);
  const std::string origin = a->like.origin, own = context.cluster.members.self().name;
  if (around.elsewhere.contains(f.id)) {
    return failure(f.name +
                   ": another node sees to it, where it runs or is being repaired; its "
                   "crstored puts missing parts in place by itself");
  }
  std::vector<Member> now = around.members;
  const size_t at = find_member(now, origin);
  if (origin != own && at < now.size() && now[at].state == NodeState::kUp) {
    return failure(f.name + ": its node " + origin + " is up; run `crstore repair` there");
  }
  if (in_service(now) < a->protection.parts()) {
    return failure(f.name + ": " + std::to_string(a->protection.parts()) +
                   " nodes are needed, one for each part, and only " +
                   std::to_string(in_service(now)) +
                   " can be reached and take one; `crstore status` shows which");
  }
  ProtectedSession s;
  s.id = f.id;
  s.name = f.name;
  s.dir = context.repair_dir + "/" + to_hex(f.id);
  s.protection = a->protection;
  s.uid = f.uid;
  s.origin = origin.empty() ? own : origin;
  mkdir(context.repair_dir.c_str(), 0700);
  remove_image(s.dir);  // of one that was killed
  Found newest = f;
  const auto made = make_newest(cluster, s.dir, false, 0, &newest, &a, {}, &text);
  if (!made) return failure(text);
  std::vector<std::string> old;
  for (size_t h = 0; h < a->holders.size(); h++) {
    const auto stays = std::ranges::find_if(a->holders[h], [&](const FoundPart& p) {
      const size_t m = find_member(now, p.node);
      return m < now.size() && now[m].state == NodeState::kUp &&
             std::ranges::find(old, p.node) == old.end();
    });
    old.push_back(stays == a->holders[h].end() ? "?" + std::to_string(h) : stays->node);
  }
  context.repair(std::move(s), std::move(old), std::move(now));
  return {};
}

// Besides damage it is told if no checkpoint has all its parts: one more node lost, and there may
// be none at all.
Json verify(const RequestContext& context, Cluster& cluster, const Found& f) {
  std::string text;
  std::vector<FoundPart> parts = cluster.list(&f.id);
  auto bad = verify_parts(cluster, parts, &text);
  if (!bad) return failure(f.name + ": " + text);
  const std::vector<Found> now = look(cluster, &f.id, context.uid, has_all_parts);
  for (const Found& found : now) {
    if (has_all_parts(found)) continue;
    for (const Available& a : found.checkpoints) {
      bad->push_back("checkpoint " + std::to_string(a.triple.sequence) + ": " + a.words());
      if (a.is_whole()) break;  // older ones are not needed any more
    }
  }
  return {{"ok", true},
          {"name", f.name},
          {"session", to_hex(f.id)},
          {"bad", *bad},
          {"unreachable", unreachable_json(cluster)}};
}

}  // namespace

bool is_cluster_request(const std::string& op) {
  return op == "ls" || op == "stat" || op == "get" || op == "verify" || op == "rm" ||
         op == "repair" || op == "drain";
}

Json do_request(const RequestContext& context, const Json& request) {
  std::string text;
  if (text_of(request, "op") == "drain") return drain_node(context, request);
  auto opened = Cluster::open(context.cluster, &text);
  if (!opened) return failure(text.empty() ? opened.error().what : text);
  Cluster& cluster = **opened;
  const std::string op = text_of(request, "op"), name = text_of(request, "name");
  const std::vector<Found> all = look(cluster, nullptr, context.uid, has_whole);
  if (op == "ls") {
    Json sessions = Json::array();
    for (const Found& f : all) sessions.push_back(session_json(f));
    return {{"ok", true}, {"sessions", sessions}, {"unreachable", unreachable_json(cluster)}};
  }
  const Found* f = choose(all, name, cluster, &text);
  if (f == nullptr) return failure(text);
  if (op == "get") return get(context, cluster, *f, request);
  if (op == "verify") return verify(context, cluster, *f);
  if (op == "repair") return repair(context, cluster, *f);
  if (op == "rm") {
    const auto removed = cluster.remove(f->id, context.uid, &text);
    if (!removed) return failure(text);
    Json j{{"ok", true}, {"files", *removed}, {"unreachable", unreachable_json(cluster)}};
    return j;
  }
  Json j = session_json(*f);
  j["ok"] = true;
  j["unreachable"] = unreachable_json(cluster);
  return j;
}

}  // namespace cr::node
