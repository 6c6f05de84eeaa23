// SPDX-License-Identifier: MIT
// requests.cc - the requests of people that ask other nodes; see daemon.h.
// Invariant: files are made and removed with the rights of the user who asks; nobody sees or gets
// another user's session, but root.
// Context: N; a thread of its own each.
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>

#include "node/as_user.h"
#include "node/daemon.h"
#include "node/disk_words.h"
#include "node/image_maker.h"
#include "node/recovery.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

constexpr unsigned kMostLooks = 10;
constexpr int kLookAgainMs = 30;
constexpr uint64_t kLookNs = 10'000'000'000;  // for the shared file system's answer

Json triple_json(const format::Triple& t) {
  return {{"epoch", t.epoch}, {"sequence", t.sequence}, {"attempt", t.attempt}};
}

// All that is known of one session.
struct Found {
  SessionId id{};
  std::string name;
  uint32_t uid = 0;
  std::vector<Available> checkpoints;  // of parts
  std::vector<FlushedFile> flushed;
};

Found* session_of(std::vector<Found>& all, const SessionId& id, const std::string& name,
                  uint32_t uid) {
  const auto at = std::ranges::find(all, id, &Found::id);
  if (at != all.end()) return &*at;
  all.push_back({id, name, uid, {}, {}});
  return &all.back();
}

std::vector<Found> sessions_of(const std::vector<FoundPart>& parts,
                               const std::vector<FlushedFile>& flushed, uint32_t uid) {
  std::vector<Found> all;
  for (const FoundPart& p : parts) {
    if (uid != 0 && p.entry.uid != uid) continue;
    (void)session_of(all, session_id_of(p.entry.session_id), p.entry.name, p.entry.uid);
  }
  for (Found& f : all) {
    std::vector<FoundPart> own;
    std::ranges::copy_if(parts, std::back_inserter(own), [&](const FoundPart& p) {
      return session_id_of(p.entry.session_id) == f.id;
    });
    f.checkpoints = available(own);
  }
  for (const FlushedFile& file : flushed) {
    if (uid != 0 && file.uid != uid) continue;
    Found* const f = session_of(all, file.id, file.name, file.uid);
    if (f->uid == file.uid) f->flushed.push_back(file);
  }
  for (Found& f : all) {
    std::ranges::stable_sort(f.flushed, [](const FlushedFile& x, const FlushedFile& y) {
      return is_newer(x.triple, y.triple);
    });
  }
  std::ranges::sort(all, {}, &Found::name);
  return all;
}

// Of a session of which there are parts at all.
bool has_whole(const Found& f) {
  return f.checkpoints.empty() || std::ranges::any_of(f.checkpoints, &Available::is_whole);
}

bool has_all_parts(const Found& f) {
  const auto all = [](const Available& a) { return a.parts() == a.holders.size(); };
  return f.checkpoints.empty() || std::ranges::any_of(f.checkpoints, all);
}

bool same(const std::vector<FoundPart>& a, const std::vector<FoundPart>& b) {
  return std::ranges::equal(a, b, [](const FoundPart& x, const FoundPart& y) {
    return x.node == y.node && x.entry.triple == y.entry.triple &&
           x.entry.holder == y.entry.holder && x.entry.layout == y.entry.layout &&
           session_id_of(x.entry.session_id) == session_id_of(y.entry.session_id);
  });
}

// What there is, of all sessions or of one. Of a session that runs each node may tell of another
// moment. Where something is missing they are asked again, until it is there or nothing changes any
// more.
std::vector<Found> look(Cluster& cluster, const SessionId* only, uint32_t uid,
                        bool (*is_good)(const Found&),
                        const std::vector<FlushedFile>& flushed = {}) {
  std::vector<FoundPart> parts = cluster.list(only);
  for (unsigned i = 1;; i++) {
    std::vector<Found> found = sessions_of(parts, flushed, uid);
    if (i == kMostLooks || std::ranges::all_of(found, is_good)) return found;
    poll(nullptr, 0, kLookAgainMs);
    std::vector<FoundPart> now = cluster.list(only);
    if (same(parts, now)) return found;
    parts = std::move(now);
  }
}

FlushListing flushed_now(const RequestContext& context) {
  if (!context.flush) return {};
  auto listing = context.flush->list(kLookNs, context.wanted);
  if (listing) return std::move(*listing);
  return {
      {},
      {context.flush->dir() + ": the file system does not answer; see its server and the network"}};
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
    *ret_text = name +
                ": no node that can be reached keeps parts of such a session, and none is "
                "flushed to where this node can see it";
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

Json flushed_json(const FlushedFile& f) {
  Json j = triple_json(f.triple);
  j["protect"] = store::to_string(f.protection);
  j["path"] = f.path;
  j["node"] = f.node;
  j["image_bytes"] = f.image_bytes;
  j["file_bytes"] = f.file_bytes;
  j["zstd"] = f.compressed;
  j["realtime_ns"] = f.realtime_ns;
  return j;
}

Json session_json(const Found& f) {
  Json checkpoints = Json::array(), flushed = Json::array();
  for (const Available& a : f.checkpoints) checkpoints.push_back(checkpoint_json(a));
  for (const FlushedFile& file : f.flushed) flushed.push_back(flushed_json(file));
  return {{"name", f.name},
          {"session", to_hex(f.id)},
          {"uid", f.uid},
          {"checkpoints", checkpoints},
          {"flushed", flushed}};
}

Json unreachable_json(const Cluster& cluster) {
  Json j = Json::object();
  for (const auto& [node, why] : cluster.unreachable()) j[node] = why;
  return j;
}

// A checkpoint that can be had: of parts, or of a flushed file.
struct Source {
  format::Triple triple{};
  const Available* parts = nullptr;
  const FlushedFile* flushed = nullptr;

  const store::Protection& protection() const {
    return parts != nullptr ? parts->protection : flushed->protection;
  }
  std::string words() const {
    return "checkpoint " + std::to_string(triple.sequence) +
           (flushed != nullptr ? " in " + flushed->path : "");
  }
};

// Newest first; of the same checkpoint parts come first, which are likely to be nearer. sequence:
// of that one only, 0: all. None: the text says why.
std::vector<Source> sources_of(const Found& f, uint64_t sequence, std::string* ret_text) {
  std::vector<Source> all;
  std::string why;
  for (const Available& a : f.checkpoints) {
    if (sequence != 0 && a.triple.sequence != sequence) continue;
    if (a.is_whole()) {
      all.push_back({a.triple, &a, nullptr});
    } else {
      why += "; checkpoint " + std::to_string(a.triple.sequence) + ": " + a.words();
    }
  }
  for (const FlushedFile& file : f.flushed) {
    if (sequence == 0 || file.triple.sequence == sequence) {
      all.push_back({file.triple, nullptr, &file});
    }
  }
  std::ranges::stable_sort(
      all, [](const Source& x, const Source& y) { return is_newer(x.triple, y.triple); });
  if (all.empty()) {
    *ret_text = f.name + ": " +
                (sequence != 0 ? "checkpoint " + std::to_string(sequence) + " cannot be had"
                               : "no checkpoint can be had") +
                why;
  }
  return all;
}

// Reads with our own rights while the rest of the thread has the user's.
class OwnSource : public SlotSource {
 public:
  explicit OwnSource(SlotSource& from) : from_(from) {}
  uint64_t slots() const override { return from_.slots(); }
  const format::DescriptionView& description() const override { return from_.description(); }
  Result<void> read(uint64_t slot, uint8_t* page, std::string* ret_text) override {
    const FileUser as_ourselves(geteuid(), getegid());
    return from_.read(slot, page, ret_text);
  }
  Result<std::vector<SlotPages>> next(std::string* ret_text) override {
    const FileUser as_ourselves(geteuid(), getegid());
    return from_.next(ret_text);
  }

 private:
  SlotSource& from_;
};

// As make_image(), of a flushed file.
Result<RecoveryResult> make_image_of_flushed(const FlushedFile& from,
                                             const std::function<bool()>& wanted,
                                             const std::string& dir, bool durable,
                                             const OnMakeProgress& progress,
                                             std::string* ret_text) {
  ret_text->clear();
  const auto open = [&] {
    const FileUser as_ourselves(geteuid(), getegid());
    return FlushFile::open(from.path);
  };
  auto file = open();
  if (!file) {
    *ret_text = explain_flush(from.path, file.error());
    return Error{Errc::kDamaged, 0, file.error().what};  // another source may be better
  }
  OwnSource own(**file);
  WantedSource source(own, wanted);
  const auto bytes = make_image_of(source, dir, durable, progress, ret_text);
  if (!bytes) return bytes.error();
  RecoveryResult r;
  r.bytes = *bytes;
  return r;
}

// Would another source do, or does what failed concern the image that is made?
bool is_of_source(const Error& e) {
  return e.code != Errc::kSystem || e.sys_errno == EIO || e.sys_errno == ESTALE ||
         e.sys_errno == ETIMEDOUT;
}

// Calls `tell` now and then.
OnMakeProgress seldom(const std::function<void(const Json&)>& tell) {
  return [tell, told_ns = uint64_t{0}](const MakeProgress& p) mutable {
    const uint64_t now = rawsys::now_ns();
    if (now - told_ns < 200'000'000 && p.done_bytes != p.total_bytes) return;
    told_ns = now;
    tell({{"event", "progress"}, {"done", p.done_bytes}, {"total", p.total_bytes}});
  };
}

std::string joined(const std::vector<std::string>& lines) {
  std::string all;
  for (const std::string& line : lines) all += (all.empty() ? "" : "; ") + line;
  return all;
}

// An image that was made.
struct Made {
  RecoveryResult result;
  format::Triple triple{};
  store::Protection protection;
  std::string path;                               // of a flushed file
  std::vector<std::vector<std::string>> holders;  // by number: nodes that have that part
  std::vector<std::string> passed_over;           // a line for each source that was not good
};

Made made_of(const Source& from, RecoveryResult result) {
  Made m;
  m.result = std::move(result);
  m.triple = from.triple;
  m.protection = from.protection();
  if (from.flushed != nullptr) m.path = from.flushed->path;
  m.holders.resize(m.protection.parts());
  for (size_t h = 0; from.parts != nullptr && h < m.holders.size(); h++) {
    for (const FoundPart& p : from.parts->holders[h]) m.holders[h].push_back(p.node);
  }
  return m;
}

// Of the first source that is good; of another checkpoint only who asks for it gets an image, as
// that is older. kNotFound: newer checkpoints were written over its parts. ret_lines gets a line
// for each source that was not good.
Result<Made> make_first(Cluster& cluster, const std::vector<Source>& sources,
                        const std::string& dir, bool durable, const OnMakeProgress& progress,
                        std::vector<std::string>* ret_lines) {
  Error last{Errc::kNotWhole, 0, "no checkpoint can be had"};
  for (const Source& s : sources) {
    if (!(s.triple == sources[0].triple)) {
      ret_lines->push_back("the one before is checkpoint " + std::to_string(s.triple.sequence) +
                           ": --sequence " + std::to_string(s.triple.sequence));
      break;
    }
    const uint64_t row = s.parts != nullptr ? kPageSize * s.parts->protection.data : 0;
    const auto in_bytes = [&](const RecoveryProgress& p) {
      if (progress) progress({p.done_bytes * row, p.total_bytes * row});
    };
    std::string text;
    auto made = s.parts != nullptr ? make_image(cluster, *s.parts, dir, durable, in_bytes, &text)
                                   : make_image_of_flushed(*s.flushed, cluster.wanted(), dir,
                                                           durable, progress, &text);
    if (made) return made_of(s, std::move(*made));
    ret_lines->push_back(s.words() + ": " + text);
    last = made.error();
    if (!is_of_source(last) || last.code == Errc::kNotFound) break;
  }
  return last;
}

// Makes an image of the newest checkpoint that can be had, or of the one that is asked for. If
// newer ones are written over its parts meanwhile, of one of those.
Result<Made> make_newest(Cluster& cluster, Found f, const std::string& dir, bool durable,
                         uint64_t sequence, const OnMakeProgress& progress, std::string* ret_text) {
  for (unsigned i = 1;; i++) {
    const std::vector<Source> sources = sources_of(f, sequence, ret_text);
    if (sources.empty()) return Error{Errc::kNotWhole, 0, "no checkpoint can be had"};
    std::vector<std::string> lines;
    auto made = make_first(cluster, sources, dir, durable, progress, &lines);
    if (made) {
      made->passed_over = lines;
      return made;
    }
    *ret_text = f.name + ": " + joined(lines);
    if (made.error().code != Errc::kNotFound) return made;
    if (i == kMostLooks) {
      *ret_text +=
          "; newer checkpoints are written over it faster than it can be read: try again, "
          "or while the program takes fewer of them";
      return made;
    }
    std::vector<Found> now = look(cluster, &f.id, 0, has_whole);
    if (now.empty()) return made;
    f.checkpoints = std::move(now[0].checkpoints);
  }
}

// Images of the session that are on this node and not older than that.
std::string local_image(const RequestContext& context, const Found& f, const Json& request,
                        const format::Triple& best) {
  for (const std::string& dir : {text_of(request, "dir"), context.cluster.store->source_of(f.id)}) {
    if (dir.empty()) continue;
    const auto image = SessionImage::open(dir);
    if (!image || session_id_of((*image)->super().session_id) != f.id) continue;
    if (context.uid != 0 && (*image)->uid() != context.uid) continue;
    const uint64_t sequence = number_of(request, "sequence");
    if (sequence != 0 && (*image)->triple().sequence != sequence) continue;
    if (!is_newer(best, (*image)->triple())) return dir;
  }
  return "";
}

// How the session was protected last.
const store::Protection& protection_of(const Found& f) {
  return f.checkpoints.empty() ? f.flushed[0].protection : f.checkpoints[0].protection;
}

// A restore begins a later epoch than any of which something is left: else the names of its
// checkpoints could be those of another run's.
uint64_t highest_epoch(const Found& f) {
  uint64_t highest = 0;
  for (const Available& a : f.checkpoints) highest = std::max(highest, a.triple.epoch);
  for (const FlushedFile& file : f.flushed) highest = std::max(highest, file.triple.epoch);
  return highest;
}

// The nodes that have parts of it.
std::vector<std::string> nodes_with_parts(const Found& f) {
  std::set<std::string> nodes;
  for (const Available& a : f.checkpoints) {
    for (const auto& holder : a.holders) {
      for (const FoundPart& p : holder) nodes.insert(p.node);
    }
  }
  return {nodes.begin(), nodes.end()};
}

Json get(const RequestContext& context, Cluster& cluster, const Found& f, const Json& request) {
  std::string text;
  const uint64_t sequence = number_of(request, "sequence");
  const std::vector<Source> sources = sources_of(f, sequence, &text);
  if (flag_of(request, "local")) {
    const format::Triple best = sources.empty() ? format::Triple{} : sources[0].triple;
    if (const std::string dir = local_image(context, f, request, best); !dir.empty()) {
      return {{"ok", true},
              {"dir", dir},
              {"local", true},
              {"session", to_hex(f.id)},
              {"name", f.name},
              {"protect", store::to_string(protection_of(f))},
              {"known_epoch", highest_epoch(f)},
              {"held_by", nodes_with_parts(f)}};
    }
  }
  if (sources.empty()) {
    for (const auto& [node, why] : cluster.unreachable()) text += "; " + node + ": " + why;
    return failure(text);
  }
  const std::string dir = text_of(request, "dir");
  if (!dir.starts_with('/')) return failure(dir + ": give an absolute path");
  const FileUser as_user(context.uid, context.gid);
  const auto made =
      make_newest(cluster, f, dir, context.durable, sequence, seldom(context.tell), &text);
  if (!made) return failure(text);
  Json j{{"ok", true}, {"dir", dir}, {"session", to_hex(f.id)}, {"name", f.name}};
  j["protect"] = store::to_string(made->protection);
  j["level"] = made->path.empty() ? 2 : 3;
  j["path"] = made->path;
  j["bytes"] = made->result.bytes;
  j["decoded_rows"] = made->result.decoded_rows;
  j["damaged"] = made->result.damaged;
  j["passed_over"] = made->passed_over;
  j["known_epoch"] = highest_epoch(f);
  j["held_by"] = nodes_with_parts(f);
  j.update(triple_json(made->triple));
  return j;
}

// The newest checkpoint that can be had is made an image here, and its parts are written anew from
// that. The answer comes later.
Json repair(const RequestContext& context, Cluster& cluster, const Found& f) {
  std::string text;
  if (sources_of(f, 0, &text).empty()) return failure(text);
  const Surroundings around = surroundings_of(context, cluster);
  const std::string own = context.cluster.members.self().name;
  const std::string origin =
      f.checkpoints.empty() ? f.flushed[0].node : f.checkpoints[0].like.origin;
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
  const unsigned parts = protection_of(f).parts();
  if (in_service(now) < parts) {
    return failure(f.name + ": " + std::to_string(parts) +
                   " nodes are needed, one for each part, and only " +
                   std::to_string(in_service(now)) +
                   " can be reached and take one; `crstore status` shows which");
  }
  ProtectedSession s;
  s.id = f.id;
  s.name = f.name;
  static std::atomic<uint64_t> last = 0;  // what another one has left is still being removed
  s.dir = context.repair_dir + "/" + to_hex(f.id) + "." + std::to_string(++last);
  s.uid = f.uid;
  s.origin = origin.empty() ? own : origin;
  mkdir(context.repair_dir.c_str(), 0700);
  const auto made = make_newest(cluster, f, s.dir, false, 0, seldom(context.tell), &text);
  if (!made) return failure(text);
  std::vector<std::string> old;
  for (size_t h = 0; h < made->holders.size(); h++) {
    const auto stays = std::ranges::find_if(made->holders[h], [&](const std::string& node) {
      const size_t m = find_member(now, node);
      return m < now.size() && now[m].state == NodeState::kUp &&
             std::ranges::find(old, node) == old.end();
    });
    old.push_back(stays == made->holders[h].end() ? "?" + std::to_string(h) : *stays);
  }
  s.protection = made->protection;
  if (!f.checkpoints.empty()) s.newest = f.checkpoints[0].triple;
  context.repair(std::move(s), std::move(old), std::move(now));
  return {};
}

// Besides damage it is told if no checkpoint has all its parts: one more node lost, and there may
// be none at all.
Json verify(const RequestContext& context, Cluster& cluster, const Found& f,
            const std::vector<std::string>& bad_flushed) {
  std::string text;
  std::vector<FoundPart> parts = cluster.list(&f.id);
  const OnMakeProgress tell = seldom(context.tell);
  const auto progress = [&](const RecoveryProgress& p) { tell({p.done_bytes, p.total_bytes}); };
  auto bad = verify_parts(cluster, parts, progress, &text);
  if (!bad) return failure(f.name + ": " + text);
  const std::vector<Found> now = look(cluster, &f.id, context.uid, has_all_parts);
  for (const Found& found : now) {
    if (has_all_parts(found)) continue;
    for (const Available& a : found.checkpoints) {
      bad->push_back("checkpoint " + std::to_string(a.triple.sequence) + ": " + a.words());
      if (a.is_whole()) break;  // older ones are not needed any more
    }
  }
  for (const FlushedFile& file : f.flushed) {
    if (!verify_flush(file.path, &text, seldom(context.tell), context.wanted)) bad->push_back(text);
  }
  for (const std::string& line : bad_flushed) {
    const std::string folder = flush_directory(context.flush->dir(), f.name, f.id);
    if (line.starts_with(folder + "/")) bad->push_back(line);
  }
  return {{"ok", true},
          {"name", f.name},
          {"session", to_hex(f.id)},
          {"bad", *bad},
          {"unreachable", unreachable_json(cluster)}};
}

Json remove(const RequestContext& context, Cluster& cluster, const Found& f) {
  std::string text;
  // Nodes that are away now are told when they come back.
  PartStore& store = *context.cluster.store;
  const format::Triple newest = f.checkpoints.empty() ? format::Triple{} : f.checkpoints[0].triple;
  if (const auto noted = store.removed().note(f.id, newest); !noted) {
    return failure(disk_words(store.dir(), noted.error()));
  }
  const auto removed = cluster.remove(f.id, context.uid, &text);
  if (!removed) return failure(text);
  unsigned files = *removed;
  std::vector<std::string> folders;
  for (const FlushedFile& file : f.flushed) folders.push_back(folder_of(file.path));
  if (context.flush) folders.push_back(flush_directory(context.flush->dir(), f.name, f.id));
  std::ranges::sort(folders);
  for (size_t i = 0; i < folders.size(); i++) {
    if (i > 0 && folders[i] == folders[i - 1]) continue;
    const auto flushed = remove_flushed(folders[i], f.id, &text);
    if (!flushed) return failure(text);
    files += *flushed;
  }
  return {{"ok", true}, {"files", files}, {"unreachable", unreachable_json(cluster)}};
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
  const FlushListing flushed = flushed_now(context);
  const std::vector<Found> all = look(cluster, nullptr, context.uid, has_whole, flushed.files);
  const Json flush_bad = flushed.bad;
  if (op == "ls") {
    Json sessions = Json::array();
    for (const Found& f : all) sessions.push_back(session_json(f));
    return {{"ok", true},
            {"sessions", sessions},
            {"unreachable", unreachable_json(cluster)},
            {"flush_bad", flush_bad}};
  }
  const Found* f = choose(all, name, cluster, &text);
  if (f == nullptr) {
    for (const std::string& line : flushed.bad) text += "; " + line;
    return failure(text);
  }
  if (op == "get") return get(context, cluster, *f, request);
  if (op == "verify") return verify(context, cluster, *f, flushed.bad);
  if (op == "repair") return repair(context, cluster, *f);
  if (op == "rm") return remove(context, cluster, *f);
  Json j = session_json(*f);
  j["ok"] = true;
  j["unreachable"] = unreachable_json(cluster);
  j["flush_bad"] = flush_bad;
  return j;
}

}  // namespace cr::node
