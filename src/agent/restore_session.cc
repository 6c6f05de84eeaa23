// SPDX-License-Identifier: MIT
// restore_session.cc - see restore_session.h. Invariant: as there. Context: N (agent).
#include "agent/restore_session.h"

#include <errno.h>
#include <fcntl.h>

#include <utility>

#include "agent/kind_pty.h"
#include "agent/restore_sockets.h"
#include "agent/session_files.h"
#include "agent/supervisor.h"

namespace cr::agent {

void ReturningSession::keep() {
  for (auto& r : all) {
    if (r->plan != nullptr) r->plan->undo.keep();
  }
  undo.keep();
}

void ReturningSession::clear() {
  all.clear();
  shared = {};
  undo.run();
}

namespace {

class SessionPlanner {
 public:
  SessionPlanner(const std::string& dir, uint64_t sequence, const PlanOptions& how,
                 const FileKeeper& files, PathMapper* paths, ReturningSession& out)
      : dir_(dir), sequence_(sequence), how_(how), files_(files), paths_(paths), out_(out) {}
  Trouble run(const store::VerifyProgress& on_verify);

 private:
  Trouble load_others();
  Trouble make_sockets(std::vector<std::string>& warnings);
  Trouble plan(Returning& r);
  Trouble finish_sockets();
  Trouble put_files_back(std::vector<std::string>& warnings);
  Trouble verify_others() const;

  const std::string& dir_;
  const uint64_t sequence_;
  PlanOptions how_;
  const FileKeeper& files_;
  PathMapper* const paths_;
  ReturningSession& out_;
};

Trouble SessionPlanner::load_others() {
  const format::ImageView& first = out_.all[0]->image->view;
  for (const format::TreeRecord& t : first.tree.subspan(1)) {
    if (t.member == format::kTreeNoImage) continue;
    auto r = std::make_unique<Returning>();
    r->record = t;
    Trouble bad = choose_member(dir_, first.super, t, &r->image);
    if (bad.bad()) return bad;
    paths_->apply_to(r->image->view);
    r->plan = std::make_unique<RestorePlan>();
    out_.all.push_back(std::move(r));
  }
  return {};
}

// They may be connected to one another's: all are made before any process is planned.
Trouble SessionPlanner::make_sockets(std::vector<std::string>& warnings) {
  SharedMakings& shared = out_.shared;
  shared.sockets = std::make_shared<SocketMaker>(warnings, out_.undo);
  shared.ptys = std::make_shared<PtyMaker>(-1);
  for (auto& r : out_.all) {
    if (r->plan == nullptr) continue;
    shared.sockets->add(r->image->view);
    shared.member_of[&r->image->view] = r->record.member;
  }
  return shared.sockets->make();
}

Trouble SessionPlanner::verify_others() const {
  for (const auto& r : out_.all) {
    uint64_t slot = 0;
    if (r == out_.all[0]) continue;
    const uint64_t addr = store::verify_pages(r->image->view, &slot, {});
    if (addr != 0) return damaged_page(*r->image, addr, slot);
  }
  return {};
}

// By the first process's image, before any file is opened.
Trouble SessionPlanner::put_files_back(std::vector<std::string>& warnings) {
  RestorePlan scratch;
  Trouble bad = put_session_files_back(*out_.all[0]->image, dir_, how_, scratch);
  warnings.insert(warnings.end(), scratch.warnings.begin(), scratch.warnings.end());
  for (auto& r : out_.all) {
    if (r->plan == nullptr) continue;
    r->plan->put_back_later = scratch.put_back_later;
    r->plan->at_take = std::exchange(scratch.at_take, {});  // once
  }
  return bad;
}

Trouble SessionPlanner::plan(Returning& r) {
  PlanOptions how = how_;
  how.member = r.record.member;
  how.lazy = how.lazy && how.member == 0;
  Trouble bad = make_restore_plan(*r.image, dir_, how, r.plan.get());
  if (bad.bad() && how.member != 0) {
    bad.text = "process " + std::to_string(r.record.pid) + " (" + r.record.name + "): " + bad.text;
  }
  return bad;
}

// When all files that may wait in their queues are open.
Trouble SessionPlanner::finish_sockets() {
  SharedMakings& shared = out_.shared;
  Trouble bad = shared.sockets->finish([&](const format::ImageView& image, uint32_t file) {
    auto it = shared.files.find({shared.member_of[&image], file});
    return it == shared.files.end() ? -1 : it->second.get();
  });
  for (auto& r : out_.all) {
    const auto files = r->image->view.files;
    for (uint32_t i = 0; i < files.size(); i++) {
      const auto flags = static_cast<int>(files[i].open_flags & (O_APPEND | O_NONBLOCK));
      if (files[i].kind != format::kFileSocket) continue;
      fcntl(shared.files[{r->record.member, i}].get(), F_SETFL, flags);
    }
  }
  return bad;
}

Trouble SessionPlanner::run(const store::VerifyProgress& on_verify) {
  auto first = std::make_unique<Returning>();
  Trouble bad = choose_image(dir_, sequence_, &first->image);
  if (bad.bad()) return bad;
  paths_->apply_to(first->image->view);
  const format::ImageView& view = first->image->view;
  bad = check_is_first(view, dir_);
  if (bad.bad()) return bad;
  how_.files.policy = files_.policy_for(view.super);
  const bool tree = !view.tree.empty();
  if (tree) first->record = view.tree[0];
  if ((view.process->flags & format::kProcessEnded) == 0) {
    first->plan = std::make_unique<RestorePlan>();
    first->plan->on_verify = on_verify;
  }
  out_.all.push_back(std::move(first));
  if (!tree) return plan(*out_.all[0]);
  how_.shared = &out_.shared;
  std::vector<std::string> warnings;
  bad = load_others();
  how_.files.verify_others = [this] { return verify_others(); };
  if (!bad.bad()) bad = put_files_back(warnings);
  if (!bad.bad()) bad = make_sockets(warnings);
  for (auto& r : out_.all) {
    if (!bad.bad() && r->plan != nullptr) bad = plan(*r);
  }
  if (!bad.bad()) bad = finish_sockets();
  if (!bad.bad()) bad = out_.shared.ptys->finish(warnings);
  for (auto& r : out_.all) {  // said with the first plan that there is
    if (r->plan == nullptr) continue;
    r->plan->warnings.insert(r->plan->warnings.end(), warnings.begin(), warnings.end());
    break;
  }
  return bad;
}

}  // namespace

Trouble plan_session(const std::string& dir, uint64_t sequence, PlanOptions how,
                     const FileKeeper& files, PathMapper* paths,
                     const store::VerifyProgress& on_verify, ReturningSession* ret) {
  ret->clear();
  how.files.paths = paths;
  Trouble bad = SessionPlanner(dir, sequence, how, files, paths, *ret).run(on_verify);
  if (bad.error.code == Errc::kDamaged && sequence == 0 && !ret->all.empty()) {
    bad.text += name_other_buffer(dir, ret->all[0]->image->index);
  }
  if (bad.bad()) ret->clear();
  return bad;
}

}  // namespace cr::agent
