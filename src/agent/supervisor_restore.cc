// SPDX-License-Identifier: MIT
// supervisor_restore.cc - the supervisor while processes are brought back: planning, handing over,
// letting in.
// Invariant: no process runs on before all of them are there; if one fails all are ended, and the
// image is as it was.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "One restore", "Process trees".
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "agent/agent_messages.h"
#include "agent/file_owners.h"
#include "agent/process_tree.h"
#include "agent/restore_objects.h"
#include "agent/supervisor.h"
#include "os/fault.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using os::fault_point;
using os::FaultPoint;

const char* step_name(int step) {
  static constexpr const char* kNames[] = {"",
                                           "unmapping",
                                           "mapping memory",
                                           "reading the image",
                                           "protecting memory",
                                           "placing the vDSO",
                                           "describing the memory map (prctl PR_SET_MM_MAP)",
                                           "setting signals",
                                           "making a thread",
                                           "starting the control thread",
                                           "setting timers",
                                           "installing descriptors",
                                           "setting files' offsets and sizes"};
  return step >= 0 && step < static_cast<int>(sizeof(kNames) / sizeof(kNames[0])) ? kNames[step]
                                                                                  : "?";
}

}  // namespace

Returning* Supervisor::returning(pid_t pid) const {
  for (auto& r : returning_.all) {
    if (restoring_ && r->plan != nullptr && r->pid == pid) return r.get();
  }
  return nullptr;
}

uint64_t Supervisor::eager_bytes() const {
  uint64_t sum = 0;
  for (const auto& r : returning_.all) sum += r->plan != nullptr ? r->plan->eager_bytes : 0;
  return sum;
}

uint64_t Supervisor::lazy_bytes() const {
  uint64_t sum = 0;
  for (const auto& r : returning_.all) sum += r->plan != nullptr ? r->plan->lazy_bytes : 0;
  return sum;
}

std::string Supervisor::clock_words(pid_t pid) const {
  for (const auto& r : returning_.all) {
    if (r->plan != nullptr) return agent::clock_words(r->plan->clocks, pid != 0 ? pid : r->pid);
  }
  return "";
}

// ---- planning ---------------------------------------------------------------------------------

Trouble Supervisor::prepare(uint64_t sequence, int live_pidfd) {
  store::VerifyProgress on_verify;
  if (options_.progress) {
    on_verify = [this](uint64_t done, uint64_t total) {
      options_.progress(format::kPhaseVerifying, done, total);
    };
  }
  // In place, the process is lost once it has begun: then nothing may be found to be damaged.
  const bool in_place = live_pidfd >= 0;
  PlanOptions how;
  how.live_pidfd = live_pidfd;
  how.verify = in_place ? Verify::kNow : Verify::kWithFill;
  how.lazy = options_.lazy && !in_place;
  Trouble bad = plan_session(session_.options().dir, sequence, how, session_.files(),
                             &options_.paths, on_verify, &returning_);
  if (bad.bad()) return bad;
  returning_.all[0]->session = &session_;
  for (const auto& r : returning_.all) {
    if (r->plan == nullptr) continue;
    for (const std::string& w : r->plan->warnings) say(w);
  }
  restoring_ = true;
  newest_wanted_ = sequence == 0;
  last_said_.clear();
  return {};
}

Trouble Supervisor::restore(uint64_t sequence, Launched* ret) {
  Trouble bad = prepare(sequence, -1);
  if (bad.bad()) return bad;
  Returning& first = *returning_.all[0];
  tree_.clear();
  session_.adopt(*first.image);
  fault_point(FaultPoint::kRestorePlanned);
  if (!returning_.is_tree()) {
    bad = launch_restored(options_.start, *first.plan, options_.ids, ret);
    first.pid = ret->pid;
  } else {
    bad = launch_others(ret);
  }
  if (bad.bad()) {
    restoring_ = false;
    return bad;
  }
  if (ret->pid != 0) session_.set_program(ret->pid);
  terminal_.expect_restored();
  fault_point(FaultPoint::kRestoreExec);
  return {};
}

// All processes of a tree, the first one among them if it lives.
Trouble Supervisor::launch_others(Launched* ret) {
  const auto rows = returning_.all[0]->image->view.tree;
  std::vector<RestorePlan*> plans(rows.size());
  for (auto& r : returning_.all) {
    for (size_t i = 0; i < rows.size(); i++) {
      if (rows[i].member == r->record.member) plans[i] = r->plan.get();
    }
  }
  const auto terminal_of = [&](uint32_t number) {
    for (auto& r : returning_.all) {
      const auto files = r->image->view.files;
      for (uint32_t i = 0; i < files.size(); i++) {
        if (files[i].kind != format::kFilePtySlave || files[i].pair != number) continue;
        auto it = returning_.shared.files.find({r->record.member, i});
        if (it != returning_.shared.files.end()) return it->second.get();
      }
    }
    return -1;
  };
  Trouble bad = launch_tree(options_.start, rows, plans, terminal_of, options_.ids, ret);
  if (bad.bad()) return bad;
  note_home(*ret);
  const bool own_namespace = ret->waiter != ret->pid;
  const pid_t top = own_namespace ? ret->waiter : getpid();
  tree_.set_top(top);
  std::vector<pid_t> all = children_of(top);
  for (size_t i = 0; i < all.size(); i++) {
    for (const pid_t pid : children_of(all[i])) all.push_back(pid);
    const pid_t inner = os::innermost_id(
        os::read_or_empty("/proc/" + std::to_string(all[i]) + "/status"), "NStgid");
    for (auto& r : returning_.all) {
      if (r->plan != nullptr && r->record.pid == inner) r->pid = all[i];
    }
  }
  for (auto& r : returning_.all) {
    if (r->plan == nullptr) continue;
    if (r->pid == 0) {
      tree_.kill_all();
      return trouble(Errc::kSystem, ESRCH,
                     "process " + std::to_string(r->record.pid) + " ended at once");
    }
    if (r == returning_.all[0]) continue;
    bad = tree_.adopt(r->record, *r->image, r->pid);
    r->session = tree_.find(r->pid);
    if (bad.bad()) return bad;
  }
  tree_.adopt_first(returning_.all[0]->record);
  ret->pid = returning_.all[0]->pid;
  if (!own_namespace) ret->waiter = ret->pid;
  return {};
}

// ---- handing over -----------------------------------------------------------------------------

// A process that will be a restored one asks for its plan.
void Supervisor::on_take(size_t i) {
  const int sock = clients_[i].fd.get();
  Returning* r = returning(peer_of(sock));
  if (r == nullptr) {
    (void)send_with_fds(
        sock, refusal(trouble(Errc::kPermission, EPERM, "nothing to restore for this process")),
        nullptr, 0);
    return;
  }
  RestorePlan& plan = *r->plan;
  clients_[i].restores = r->pid;
  Trouble bad = plan.at_take ? plan.at_take() : Trouble{};
  if (!bad.bad()) bad = open_proc_files(plan, r->pid);
  auto memfd = os::make_memfd("cr-plan");
  if (!bad.bad() && !memfd)
    bad = trouble(Errc::kNoMemory, memfd.error().sys_errno, "memory for the plan");
  if (!bad.bad() &&
      rawsys::write_all_at(memfd->get(), plan.bytes.data(), plan.bytes.size(), 0) != 0) {
    bad = trouble(Errc::kNoMemory, ENOMEM, "memory for the plan");
  }
  if (bad.bad()) {
    (void)send_with_fds(sock, refusal(bad), nullptr, 0);
    return;
  }
  format::Report message{};
  message.kind = format::kMessagePlan;
  message.image_bytes = plan.bytes.size();
  const int first[2] = {memfd->get(), r->image->fd.get()};
  bool ok = send_with_fds(sock, message, first, 2);
  message.kind = format::kMessageFds;
  std::vector<int> fds;
  for (const os::Fd& fd : plan.fds) fds.push_back(fd.get());
  for (size_t at = 0; ok && at < fds.size(); at += format::kFdsPerMessage) {
    ok = send_with_fds(sock, message, fds.data() + at,
                       std::min<size_t>(format::kFdsPerMessage, fds.size() - at));
  }
  fault_point(FaultPoint::kRestoreTaken);
  if (plan.lazy_bytes > 0) filling_ = clients_[i].fills = true;
  plan.fds.clear();  // the program's pipes must not be held open here
  returning_.shared = {};
}

bool Supervisor::all_are_here() const {
  return std::ranges::all_of(returning_.all,
                             [](const auto& r) { return r->plan == nullptr || r->connection; });
}

// Nothing can fail any more but the processes themselves.
Trouble Supervisor::finish_all() {
  for (auto& r : returning_.all) {
    if (r->plan == nullptr) continue;
    Trouble bad = finish_segments(*r->plan, *r->image);
    if (bad.bad()) return bad;
  }
  return {};
}

Trouble Supervisor::let_in(Returning& r) {
  std::string why;
  os::Fd keep(fcntl(r.connection.get(), F_DUPFD_CLOEXEC, 0));
  if (r.session->attach(std::move(r.connection), r.hello, &why)) return {};
  Trouble bad = trouble(Errc::kPermission, EPERM, why);
  (void)send_with_fds(keep.get(), refusal(bad), nullptr, 0);
  return bad;
}

// What was restored of a tree by half ends.
void Supervisor::give_up_restoring() {
  if (!restoring_ || !returning_.is_tree()) return;
  tree_.kill_all();
}

void Supervisor::on_hello(size_t i, const format::Hello& hello) {
  const pid_t pid = peer_of(clients_[i].fd.get());
  os::Fd fd = std::move(clients_[i].fd);
  Returning* r = hello.restored != 0 ? returning(pid) : nullptr;
  if (r == nullptr) {
    os::Fd keep(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    std::string why = "another process's control thread";
    const bool first = pid != 0 && pid == session_.pid();
    if (!first && pid != 0) tree_.welcome(pid);
    const bool good = first ? session_.attach(std::move(fd), hello, &why)
                            : pid != 0 && tree_.attach(pid, std::move(fd), hello, &why);
    if (!good) {
      (void)send_with_fds(keep.get(), refusal(trouble(Errc::kPermission, EPERM, why)), nullptr, 0);
      say("the program could not attach: " + why);
    } else if (first) {
      tree_.learn(pid, hello);
      next_ns_ =
          rawsys::now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
    }
    return;
  }
  r->connection = std::move(fd);
  r->hello = hello;
  if (!all_are_here()) return;
  if (options_.progress) {
    const uint64_t all = returning_.all[0]->image->view.super.payload_slots * kPageSize;
    options_.progress(format::kPhaseFilling, all, all);
    options_.progress_ends();  // the program speaks next
  }
  Trouble bad = finish_all();
  if (!bad.bad() && returning_.all[0]->plan != nullptr) {  // when it has attached it runs
    terminal_.restored(returning_.all[0]->image->view, session_.pid(), session_.pidfd());
  }
  for (auto& each : returning_.all) {
    if (each->plan == nullptr) continue;
    if (!bad.bad()) {
      bad = let_in(*each);
    } else if (each->connection) {
      (void)send_with_fds(each->connection.get(), refusal(bad), nullptr, 0);
    }
  }
  if (bad.bad()) {
    say("the program could not attach: " + bad.text);
    give_up_restoring();
    return;
  }
  returning_.keep();
  for (auto& each : returning_.all) {
    if (each->plan != nullptr) tree_.learn(each->pid, each->hello);
  }
  fault_point(FaultPoint::kRestoreAttached);
  (void)store::remove_file(session_.options().dir + "/finished");  // it lives again
  restoring_ = false;
  if (filling_) filling_image_ = std::move(returning_.all[0]->image);
  returning_.clear();
  next_ns_ = rawsys::now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
}

// The process that fills a lazily restored one is gone; its socket was its alone since the program
// runs.
void Supervisor::on_filler_end() {
  filling_ = false;
  filling_image_.reset();
  if (filled_ || fill_failed_ || session_.pidfd() < 0) return;
  pollfd p{session_.pidfd(), POLLIN, 0};
  if (poll(&p, 1, 0) != 0) return;  // it ended because the program has
  const std::string status =
      os::read_or_empty("/proc/" + std::to_string(session_.pid()) + "/status");
  syscall(__NR_pidfd_send_signal, session_.pidfd(), SIGKILL, nullptr, 0);
  if (status.empty() || os::is_killed(status)) return;  // both were killed, by one and the same
  fill_failed_ = true;
  say("the process that brought the program's memory (cr-fill) was ended; so is the program");
}

// A checkpoint is of all memory, and the image may be written to only when nothing is missing.
void Supervisor::wait_until_filled() {
  while (filling_) {
    for (size_t i = 0; i < clients_.size(); i++) {
      if (!clients_[i].fills || !clients_[i].fd) continue;
      pollfd p{clients_[i].fd.get(), POLLIN, 0};
      if (poll(&p, 1, -1) > 0) serve_client(i);
    }
  }
}

// How much memory the process has that is becoming the restored program.
void Supervisor::tell_filled() {
  auto status = os::read_file("/proc/" + std::to_string(session_.pid()) + "/status");
  if (!status || returning_.all.empty() || returning_.all[0]->image == nullptr) return;
  uint64_t bytes = 0;
  for (const char* field : {"RssAnon", "RssShmem"}) {
    bytes += strtoull(os::status_field(*status, field).c_str(), nullptr, 10) << 10;
  }
  const uint64_t total = returning_.all[0]->image->view.super.payload_slots * kPageSize;
  options_.progress(format::kPhaseFilling, std::min(bytes, total), total);
}

// A helper that copies a file for the journal is over in a moment.
bool Supervisor::several_live() {
  constexpr int kPatienceMs = 50;
  for (int round = 0; tree_.others_live(); round++) {
    if (round == kPatienceMs) return true;
    usleep(1000);
  }
  return false;
}

// restore(): what has changed is put back. Where that cannot be done, the running process execs
// itself and takes over as a restored one would.
void Supervisor::on_rollback(Session& session, uint64_t id) {
  wait_until_filled();
  const bool tree = &session != &session_ || session_.in_tree() || several_live();
  if (options_.own_child && tree) return roll_back_tree(session, id);
  if (session_.options().heap != HeapMode::kNone) {
    session_.answer(id, Session::Answer::kRollback, session_.load_heap());
    return;
  }
  session_.quick().withdraw();
  bool in_place = false;
  const Trouble half = session_.roll_back(&in_place);
  session_.quick().clean_up();
  note_death();
  if (half.bad()) return say(half.text);
  if (in_place) {
    next_ns_ = rawsys::now_ns() + static_cast<uint64_t>(session_.options().interval_seconds * 1e9);
    return;
  }
  Trouble bad = prepare(0, session_.pidfd());
  if (!bad.bad()) {
    RestorePlan& plan = *returning_.all[0]->plan;
    returning_.all[0]->pid = session_.pid();
    format::PlanHeader& h = *plan.header();
    h.ids = format::kIdsTry;
    h.drop_caps = 0;
    auto join = [](const std::vector<std::string>& v) {
      std::string s;
      for (const std::string& x : v) s.append(x).push_back('\0');
      return s;
    };
    const auto env = restore_environment(options_.start, plan.environment, h.process.pid);
    if (access(plan.program.c_str(), X_OK) != 0) {
      bad = trouble(Errc::kNotFound, ENOENT, "the program " + plan.program + " is gone");
    } else if (!session_.offer_exec(plan.program, join(plan.argv), join(env))) {
      bad = trouble(Errc::kNoMemory, E2BIG, "the environment is too large");
    } else {
      silence_owners(session_.pid(), session_.pidfd());
      session_.count_rollback();
      session_.adopt(*returning_.all[0]->image);
    }
  }
  if (bad.bad()) restoring_ = false;
  session_.answer(id, Session::Answer::kRollback, bad);
}

// Several processes are not put back in place: they end, and are brought back from the image.
void Supervisor::roll_back_tree(Session& session, uint64_t id) {
  std::unique_ptr<store::LoadedImage> image;
  const Trouble bad = choose_image(session_.options().dir, 0, &image);
  if (bad.bad()) {
    session.answer(id, Session::Answer::kRollback, bad);
    return;
  }
  session_.count_rollback("the session has several processes");
  rollback_wanted_ = true;
  tree_.kill_all();
}

// What the restorer says before it ends.
std::string Supervisor::describe_failure(pid_t pid, const format::Report& r) {
  const Returning* which = returning(pid);
  const RestorePlan* plan = which != nullptr ? which->plan.get() : nullptr;
  const store::LoadedImage* image = which != nullptr ? which->image.get() : filling_image_.get();
  if (r.code == format::kStepFill && r.sys_errno == EBADMSG && image != nullptr) {
    return damaged_page(*image, r.sequence, r.epoch).text +
           (newest_wanted_ ? name_other_buffer(session_.options().dir, image->index) : "");
  }
  if (r.code == format::kStepFill && r.sys_errno == EOWNERDEAD) {
    return "the process that was to bring the program's memory (cr-fill) was ended before it could "
           "begin; run crrestore again";
  }
  char at[32] = "";
  if (r.code == format::kStepFiles && plan != nullptr) {
    std::vector<std::string> paths;
    for (const PendingFile& p : plan->pending) {
      if (p.seek) paths.push_back(p.path);
    }
    const std::vector<std::string>& more = plan->changed_names;
    paths.insert(paths.end(), more.begin(), more.end());
    if (r.sequence < paths.size()) {
      return "restoring failed: " + paths[r.sequence] +
             " cannot be put back to its offset, size and content at the checkpoint: " +
             strerror(r.sys_errno);
    }
  }
  if (r.code == format::kStepCalls && plan != nullptr && r.sequence < plan->call_names.size()) {
    return "restoring failed: " + plan->call_names[r.sequence] + ": " + strerror(r.sys_errno);
  }
  if (r.code != format::kStepControl) {
    snprintf(at, sizeof(at), " at 0x%lx", static_cast<unsigned long>(r.sequence));
  }
  return std::string("restoring failed while ") + step_name(r.code) + at + ": " +
         strerror(r.sys_errno);
}

}  // namespace cr::agent
