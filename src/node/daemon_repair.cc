// SPDX-License-Identifier: MIT
// daemon_repair.cc - all parts of a session are written anew: from an image that was made here of
// what is left of them, or, of a session that runs here, from its own. See daemon.h.
// Invariant: whoever asked is answered once, and an image that was made for it is removed, however
// it ends.
// Context: N; the daemon's own thread. Doc: docs/store.md, "What happens when".
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "node/daemon.h"
#include "node/image_maker.h"
#include "rawsys/rawsys.h"

namespace cr::node {
namespace {

using rawsys::now_ns;

constexpr uint64_t kLookAgainNs = 1'000'000'000;
constexpr uint64_t kTellNs = 500'000'000;

}  // namespace

// Images of repairs that were under way when an earlier crstored was killed. Only directories of
// ours are entered, and only files are removed that make_image() makes.
void Daemon::remove_old_repairs() const {
  const std::string all = repair_dir();
  const os::Fd dir(open(all.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat st;
  if (!dir || fstat(dir.get(), &st) != 0 || st.st_uid != geteuid()) return;
  std::vector<std::string> names;
  DIR* const d = opendir(all.c_str());
  if (d == nullptr) return;
  while (const dirent* e = readdir(d)) names.emplace_back(e->d_name);
  closedir(d);
  for (const std::string& name : names) {
    SessionId id;
    if (!from_hex(name.substr(0, name.find('.')), &id)) continue;  // SESSION.NUMBER
    const std::string image = all + "/" + name, members = image + "/members";
    if (lstat(image.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid()) continue;
    if (lstat(members.c_str(), &st) == 0 && !S_ISDIR(st.st_mode)) continue;
    remove_image(image);
    const bool gone = access(image.c_str(), F_OK) != 0;
    log_(image + (gone ? ": an image that an interrupted repair had left was removed"
                       : ": an interrupted repair has left it, and it cannot be removed: remove it "
                         "by hand"));
  }
  rmdir(all.c_str());
}

// No other one has that name.
void Daemon::remove_repair(const std::string& dir) {
  threads_->run(
      {SessionId{}, StoreThreads::kWhole}, [dir] { remove_image(dir); }, [] {});
}

void Daemon::begin_repair(ProtectedSession s, const std::vector<std::string>& old,
                          const std::vector<Member>& members, uint64_t client) {
  const std::string id = to_hex(s.id);
  std::string text;
  const auto refuse = [&](const std::string& why) {
    log_("session " + s.name + " cannot be repaired: " + why);
    answer(client, failure(s.name + ": " + why));
    remove_repair(s.dir);
    mending_.erase(s.id);
  };
  if (sessions_.contains(id)) return refuse("it is being kept by this node already");
  const PlacementRequest place{members, s.id, config_.members.self().name, s.protection.parts(),
                               config_.strict_racks};
  auto placed = replace(place, old, &text);
  if (!placed) return refuse(text);
  auto r = Replicator::make(node_for([](const Replicator&) {}), s, placed->holders);
  if (!r) return refuse(r.error().what);
  log_("session " + s.name + " (" + id.substr(0, 8) + ") is repaired");
  repairs_[id] = {s.dir, client};
  sessions_[id] = std::move(*r);
  look_at_holders_ = true;
  if (client != 0) {
    sessions_[id]->rewrite(now_ns());  // what was damaged, too, is put in order
  } else {
    sessions_[id]->wake(now_ns());
  }
  sessions_[id]->end();
}

void Daemon::end_repair(const Replicator& r) {
  const auto at = repairs_.find(to_hex(r.session().id));
  if (at == repairs_.end()) return;
  if (!at->second.dir.empty()) remove_repair(at->second.dir);
  const Safety& s = r.safety();
  const bool whole = s.parts == r.holders().size();
  const std::string text = std::to_string(s.parts) + " of " + std::to_string(r.holders().size()) +
                           " parts of checkpoint " + std::to_string(s.triple.sequence) +
                           " are in place";
  log_("session " + r.session().name + ": " + text);
  Json j = whole ? Json{{"ok", true}} : failure(r.session().name + ": " + text + "; try again");
  j["holders"] = r.holders();
  j["sequence"] = s.triple.sequence;
  answer(at->second.client, j);
  repairs_.erase(at);
  mending_.erase(r.session().id);
  look_ns_ = std::min(look_ns_, now_ns() + kLookAgainNs);  // what was elsewhere may go now
}

uint64_t Daemon::tell_repairs(uint64_t now) {
  if (repairs_.empty()) return ~uint64_t{0};
  if (now - told_repairs_ns_ < kTellNs) return told_repairs_ns_ + kTellNs;
  told_repairs_ns_ = now;
  for (const auto& [id, repair] : repairs_) {
    const auto session = sessions_.find(id);
    if (repair.client == 0 || session == sessions_.end()) continue;
    uint64_t done = 0, total = 0;
    session->second->rewritten(&done, &total);
    answer(repair.client, {{"event", "progress"}, {"done", done}, {"total", total}});
  }
  return now + kTellNs;
}

// The parts of a session that runs here are written anew from its own images. false: it does not.
bool Daemon::rewrite(const Client& c, const std::string& name) {
  for (auto& [id, r] : sessions_) {
    const bool meant = r->session().name == name || (name.size() >= 4 && id.starts_with(name));
    if (!meant || !may_see(c.uid, r->session().uid) || r->has_ended()) continue;
    if (repairs_.contains(id)) {
      answer(c.number, failure(name + ": it is being repaired already; wait for the end of that"));
      return true;
    }
    repairs_[id] = {"", c.number};
    r->rewrite(now_ns());
    return true;
  }
  return false;
}

}  // namespace cr::node
