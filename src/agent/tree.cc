// SPDX-License-Identifier: MIT
// tree.cc - see tree.h. Invariant: as there. Context: N (agent).
#include "agent/tree.h"

#include <dirent.h>
#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "agent/describe_objects.h"
#include "agent/process_tree.h"
#include "agent/supervisor.h"
#include "os/fault.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

void pause_ms(int milliseconds) {
  const timespec t{0, milliseconds * 1000000L};
  nanosleep(&t, nullptr);
}

}  // namespace

Tree::Tree(Session& first, std::function<void(int)> serve)
    : first_(first), serve_(std::move(serve)) {
  next_number_ = highest_directory() + 1;
}

Tree::~Tree() = default;

std::string Tree::directory(uint32_t number) const {
  return member_directory(first_.options().dir, number);
}

uint32_t Tree::highest_directory() const {
  uint32_t highest = 0;
  DIR* d = opendir((first_.options().dir + "/members").c_str());
  while (const dirent* e = d != nullptr ? readdir(d) : nullptr) {
    highest = std::max(highest, static_cast<uint32_t>(strtoul(e->d_name, nullptr, 10)));
  }
  if (d != nullptr) closedir(d);
  return highest;
}

// Parents come before their children.
std::vector<Tree::Process> Tree::list() const {
  std::vector<Process> all;
  if (!first_gone_) all.push_back({first_.pid(), 0, false});
  for (const pid_t pid : top_ != 0 ? children_of(top_) : std::vector<pid_t>()) {
    // Its zombies are the top's own business.
    if (pid == first_.pid() || pid == helper_ || pid == apart_ || is_zombie(pid)) continue;
    if (!first_gone_ && share_memory(pid, first_.pid())) continue;  // it fills that, lazily
    all.push_back({pid, 0, false});
  }
  for (size_t i = 0; i < all.size(); i++) {
    const pid_t parent = all[i].pid;
    if (all[i].zombie) continue;
    for (const pid_t pid : children_of(parent)) all.push_back({pid, parent, is_zombie(pid)});
  }
  return all;
}

bool Tree::alone() const {
  if (first_gone_) return false;
  if (!children_of(first_.pid()).empty()) return false;
  return top_ == 0 || list().size() == 1;
}

bool Tree::others_live() {
  const auto all = list();
  return std::ranges::any_of(
      all, [&](const Process& p) { return !p.zombie && (first_gone_ || p.pid != first_.pid()); });
}

void Tree::learn(pid_t pid, const format::Hello& hello) {
  library_.learn(pid, hello);
  if (pid == first_.pid()) (void)describe_process_of_tree(pid, &first_record_, nullptr);
}

bool Tree::can_join_first() const {
  format::Hello hello{};
  return !first_gone_ && !first_.attached() && library_.find(first_.pid(), &hello);
}

void Tree::first_ended(int status) {
  first_gone_ = true;
  first_status_ = status;
}

Tree::Member* Tree::member(pid_t pid) {
  for (auto& m : members_) {
    if (m->pid == pid) return m.get();
  }
  return nullptr;
}

Session* Tree::find(pid_t pid) {
  Member* m = member(pid);
  return m != nullptr ? m->session.get() : nullptr;
}

std::vector<Session*> Tree::others() {
  std::vector<Session*> all;
  for (auto& m : members_) {
    if (m->pid != 0 && m->session->attached()) all.push_back(m->session.get());
  }
  return all;
}

Session* Tree::session_of(pid_t pid, uint32_t* ret_number) {
  *ret_number = 0;
  if (!first_gone_ && pid == first_.pid()) return &first_;
  Member* m = member(pid);
  if (m == nullptr) return nullptr;
  *ret_number = m->number;
  return m->session.get();
}

Trouble Tree::add_member(pid_t pid, Member** ret) {
  const std::string members = first_.options().dir + "/members";
  auto made = store::make_directory(members);
  if (!made && made.error().sys_errno != EEXIST) {
    return trouble(Errc::kSystem, made.error().sys_errno,
                   members + " cannot be made: " + strerror(made.error().sys_errno));
  }
  if (made && first_.options().durable) (void)store::sync_directory(first_.options().dir);
  auto m = std::make_unique<Member>();
  m->number = next_number_++;
  m->pid = pid;
  auto session = Session::create_member(first_, directory(m->number));
  if (!session) {
    return trouble(session.error().code, session.error().sys_errno,
                   directory(m->number) + ": " + session.error().what);
  }
  m->session = std::move(*session);
  m->session->set_program(pid);
  *ret = m.get();
  members_.push_back(std::move(m));
  return {};
}

void Tree::welcome(pid_t pid) {
  if (member(pid) != nullptr || top_ == 0) return;
  const auto all = list();
  Member* m = nullptr;
  if (std::ranges::count(all, pid, &Process::pid) != 0) (void)add_member(pid, &m);
}

bool Tree::attach(pid_t pid, os::Fd connection, const format::Hello& hello, std::string* ret_text) {
  Member* m = member(pid);
  if (m == nullptr) {
    *ret_text = "another process's control thread";
    return false;
  }
  return m->session->attach(std::move(connection), hello, ret_text);
}

// Ids may be used again: by them a process is not known for ever.
void Tree::forget_ended() {
  const auto all = list();
  for (auto& m : members_) {
    if (m->pid == 0) continue;
    const bool lives =
        std::ranges::any_of(all, [&](const Process& p) { return p.pid == m->pid && !p.zombie; });
    if (lives && !m->session->has_ended()) continue;
    m->session->program_ended();
    m->pid = 0;
  }
}

// Neither the newest checkpoint nor the one before knows of them.
void Tree::remove_directories() {
  std::erase_if(members_, [&](const std::unique_ptr<Member>& m) {
    if (m->pid != 0 || m->listed_in + 2 > first_.sequence()) return false;
    const std::string dir = directory(m->number);
    for (int i = 0; i < 2; i++) (void)store::remove_file(store::buffer_path(dir, i));
    rmdir(dir.c_str());
    return true;
  });
}

void Tree::kill_all() {
  for (int round = 0; round < 100; round++) {
    bool any = false;
    for (const Process& p : list()) {
      if (p.zombie) continue;
      any = true;
      kill(p.pid, SIGKILL);
    }
    if (!any) return;
    pause_ms(1);
  }
}

void Tree::signal_all(int signal) const {
  for (const Process& p : list()) {
    if (!p.zombie) kill(p.pid, signal);
  }
}

Tree::Part* Tree::part(pid_t pid) {
  for (auto& p : parts_) {
    if (p->pid == pid) return p.get();
  }
  return nullptr;
}

// ---- one checkpoint ---------------------------------------------------------------------------

Trouble Tree::checkpoint(uint32_t then, const std::function<void()>& captured,
                         format::Report* ret_report) {
  bool single = alone() && !can_join_first();
  if (single) {
    first_.in_tree_ = false;
    first_.staging_share_ = 1;
    Trouble bad = first_.checkpoint(then, captured, ret_report);
    // A child was made meanwhile, or is just being made by vfork.
    const bool children = bad.error.sys_errno == kHasChildrenErrno ||
                          (bad.error.code == Errc::kCannotStop && bad.error.sys_errno == EAGAIN);
    single = !bad.bad() || !children || top_ == 0;
    if (!bad.bad()) {
      forget_ended();
      remove_directories();
    }
    if (single) return bad;
  } else if (top_ == 0) {
    first_.in_tree_ = false;
    return first_.checkpoint(then, captured, ret_report);  // says why not
  }
  first_.in_tree_ = true;
  first_.begin_checkpoint();
  Trouble bad = take(then, captured);
  first_.end_checkpoint(bad);
  *ret_report = first_.report_of(bad);
  return bad;
}

Trouble Tree::take(uint32_t then, const std::function<void()>& captured) {
  constexpr uint64_t kPatienceNs = 3000000000ull;
  const uint64_t deadline = rawsys::now_ns() + kPatienceNs;
  for (;;) {
    forget_ended();
    bool again = false;
    Trouble bad = attempt(then, captured, &again);
    end_all(bad);
    if (!bad.bad()) remove_directories();
    if (!bad.bad() || !again || rawsys::now_ns() > deadline) return bad;
    serve_(2);  // one that was just restored may be about to connect
  }
}

Trouble Tree::attempt(uint32_t then, const std::function<void()>& captured, bool* ret_again) {
  const auto processes = list();
  // Nobody has been told yet; who waits for it does so behind this checkpoint.
  const pid_t first = first_.pid();
  if (!first_gone_ && has_ended(first)) {
    return trouble(Errc::kCannotStop, ESRCH,
                   processes.size() > 1 ? "the program's first process has just ended; try again"
                                        : "the program has ended");
  }
  Trouble bad = join_all(processes);
  if (!bad.bad()) bad = prepare_all(processes, then);
  if (bad.bad()) return bad;
  const uint64_t stop_begin = rawsys::now_ns();
  bad = stop_all(then, ret_again);
  if (!bad.bad()) {
    bad = capture_all();
    *ret_again = bad.error.code == Errc::kCannotStop;
  }
  let_all_go(bad.bad());
  if (bad.bad()) return bad;
  // Each stood still as long as all did.
  for (auto& p : parts_) {
    p->attempt.super.pause_ns = p->session->attempt_.pause_ns = rawsys::now_ns() - stop_begin;
  }
  os::fault_point(os::FaultPoint::kResumed);
  for (auto& p : parts_) p->session->read_vm_flags(p->attempt.map.text);
  if (captured) captured();
  for (auto& p : parts_) p->session->after_stop(p->attempt);
  return commit_all();
}

// Leaves the process standing still.
Trouble Tree::join(pid_t pid, Joining* ret, bool* ret_again) {
  Member* m = member(pid);
  if (m == nullptr && (first_gone_ || pid != first_.pid())) {
    Trouble bad = add_member(pid, &m);
    if (bad.bad()) return bad;
  }
  Session& session = m == nullptr ? first_ : *m->session;
  Trouble bad = join_process(pid, library_, first_.options().dir, unfinished_, ret, ret_again);
  if (bad.bad()) return bad;
  constexpr uint64_t kPatienceNs = 3000000000ull;
  for (const uint64_t begin = rawsys::now_ns(); !session.attached();) {
    serve_(20);
    if (session.attached()) break;
    *ret_again = is_ending(pid);  // killed, it stays a zombie as long as its threads are held here
    if (*ret_again || rawsys::now_ns() - begin > kPatienceNs) {
      return trouble(Errc::kCannotStop, ETIMEDOUT,
                     name_of_process(pid) + " did not connect to the session's agent");
    }
  }
  return {};
}

// Whom this process waited for as its tracer it cannot wait for once more as its parent.
void Tree::let_go(pid_t pid, Joining& joining) {
  if (joining.world == nullptr) return;
  joining.world->resume();
  if (pid == first_.pid() && joining.world->died(&first_.died_status_)) first_.died_ = true;
  joining.world.reset();
}

// Those that have been there for a while will probably be there in the stop, which is then shorter.
Trouble Tree::join_all(const std::vector<Process>& processes) {
  constexpr double kAWhileSeconds = 0.1;
  for (const Process& p : processes) {
    uint32_t number;
    Session* s = p.zombie ? nullptr : session_of(p.pid, &number);
    if (p.zombie || (s != nullptr && s->still_attached()) || age_of(p.pid) < kAWhileSeconds) {
      continue;
    }
    Joining joining;
    bool again = false;
    Trouble bad = join(p.pid, &joining, &again);
    let_go(p.pid, joining);
    if (bad.bad() && !again) return bad;
  }
  return {};
}

Tree::Part& Tree::add_part(pid_t pid, uint32_t then) {
  auto part = std::make_unique<Part>();
  part->pid = pid;
  part->session = session_of(pid, &part->number);
  part->attempt.then = then;
  if (part->session != &first_) {
    part->session->follow(first_);
    part->session->begin_attempt();
  }
  part->session->begins_later_ = !parts_.empty();
  part->session->staging_share_ = std::max<size_t>(members_.size(), 1);
  part->begun = true;
  parts_.push_back(std::move(part));
  return *parts_.back();
}

void Tree::drop_part(pid_t pid) {
  std::erase_if(parts_, [&](const std::unique_ptr<Part>& p) {
    if (p->pid != pid) return false;
    p->attempt.world.reset();
    if (p->session != &first_) {
      p->session->end_checkpoint(trouble(Errc::kCannotStop, ESRCH, "the process has ended"));
    }
    return true;
  });
}

Trouble Tree::prepare_all(const std::vector<Process>& processes, uint32_t then) {
  share_memory_facts();
  for (const Process& p : processes) {
    uint32_t number;
    Session* s = p.zombie ? nullptr : session_of(p.pid, &number);
    if (s == nullptr || !s->still_attached()) continue;
    Part& part = add_part(p.pid, then);
    Trouble bad = s->before_stop(part.attempt, /*stands_still=*/false);
    const bool ended = bad.bad() && (s->has_ended() || !s->still_attached());
    if (ended) drop_part(p.pid);
    if (bad.bad() && !ended) return bad;
  }
  return {};
}

Trouble Tree::join_in_stop(pid_t pid, uint32_t then, bool* ret_again) {
  Joining joining;
  Trouble bad = join(pid, &joining, ret_again);
  if (bad.bad()) {
    let_go(pid, joining);
    return bad;
  }
  share_memory_facts();
  Part& part = add_part(pid, then);
  bad = part.session->before_stop(part.attempt, /*stands_still=*/true);
  if (bad.bad()) {
    let_go(pid, joining);
    *ret_again = part.session->has_ended();
    return bad;
  }
  part.stopped = true;
  return part.session->stop(part.attempt, std::move(joining.world));
}

Trouble Tree::stop_one(pid_t pid, uint32_t then, bool* ret_again) {
  Part* part = this->part(pid);
  if (part != nullptr && !part->session->still_attached()) {  // it called exec
    drop_part(pid);
    part = nullptr;
  }
  if (part == nullptr) return join_in_stop(pid, then, ret_again);
  Trouble bad = part->session->stop(part->attempt, nullptr);
  part->stopped = true;
  *ret_again = bad.error.code == Errc::kCannotStop;
  return bad;
}

// A process on its way out is waited for.
bool Tree::has_come_to_its_end(pid_t pid) {
  constexpr uint64_t kPatienceNs = 300000000;
  if (part(pid) != nullptr || !is_ending(pid)) return false;
  for (const uint64_t begin = rawsys::now_ns(); rawsys::now_ns() - begin < kPatienceNs;) {
    if (has_ended(pid)) return true;
    const timespec moment{0, 200000};
    nanosleep(&moment, nullptr);
  }
  return false;
}

// Once all threads of a process stand still, so do its children's numbers.
Trouble Tree::stop_all(uint32_t then, bool* ret_again) {
  for (bool found = true; found;) {
    found = false;
    stopped_ = list();
    for (const Process& p : stopped_) {
      const Part* part = this->part(p.pid);
      if (p.zombie || (part != nullptr && part->stopped)) continue;
      found = true;
      Trouble bad = stop_one(p.pid, then, ret_again);
      const bool first = !first_gone_ && p.pid == first_.pid();         // its end is told elsewhere
      if (bad.bad() && !first && has_come_to_its_end(p.pid)) continue;  // as if it had before
      if (bad.bad()) return bad;
    }
  }
  // What has ended in the meantime is not stopped.
  std::vector<pid_t> gone;
  for (auto& p : parts_) {
    if (!p->stopped) gone.push_back(p->pid);
  }
  for (const pid_t pid : gone) drop_part(pid);
  if (!parts_.empty()) return {};
  return trouble(Errc::kCannotStop, ESRCH, "the program has ended");
}

// Which shared anonymous memory is mapped by more than one process.
void Tree::share_memory_facts() {
  std::vector<uint64_t> all, several;
  for (const Process& p : list()) {
    if (p.zombie) continue;
    std::vector<uint64_t> own;
    auto tasks = os::list_tasks(p.pid);
    const pid_t tid = tasks && !tasks->empty() ? tasks->back() : p.pid;
    auto maps = os::parse_maps(os::read_or_empty(os::task_path(p.pid, tid, "maps")));
    for (const os::MapEntry& m : maps ? *maps : std::vector<os::MapEntry>()) {
      if (is_shared_anonymous(m) && std::ranges::count(own, m.ino) == 0) own.push_back(m.ino);
    }
    for (const uint64_t ino : own) {
      if (std::ranges::count(all, ino) != 0) several.push_back(ino);
    }
    all.insert(all.end(), own.begin(), own.end());
  }
  std::ranges::sort(several);
  several.erase(std::unique(several.begin(), several.end()), several.end());
  first_.among_processes_ = several;
  for (auto& m : members_) m->session->among_processes_ = several;
}

Trouble Tree::describe_tree(std::vector<format::TreeRecord>* ret) {
  std::vector<format::TreeRecord> all;
  for (const Process& p : stopped_) {
    format::TreeRecord t{};
    int exit_signal = 0;
    if (!describe_process_of_tree(p.pid, &t, &exit_signal)) {
      return trouble(Errc::kCannotStop, ESRCH, name_of_process(p.pid) + " has ended");
    }
    // A restored process executes a program on its way, and the kernel makes that SIGCHLD then.
    if (exit_signal != SIGCHLD) {
      return trouble(Errc::kUnsupported, 0,
                     name_of_process(p.pid) + " will tell its parent of its end by signal " +
                         std::to_string(exit_signal) +
                         ", by which clone(2) made it: that cannot be had again; make it with "
                         "SIGCHLD, or checkpoint when it has ended");
    }
    t.member = format::kTreeNoImage;
    if (const Part* part = this->part(p.pid); part != nullptr) {
      t.member = part->number;
      const format::Process& asked = part->session->channel()->process;
      if (asked.child_subreaper != 0) t.flags |= format::kTreeSubreaper;
    }
    format::TreeRecord parent{};
    if (p.parent != 0 && describe_process_of_tree(p.parent, &parent, nullptr)) t.ppid = parent.pid;
    all.push_back(t);
  }
  if (!first_gone_) {
    first_record_ = all[0];
  } else {
    format::TreeRecord gone = first_record_;
    gone.flags |= format::kTreeEnded;
    gone.status = first_status_;
    gone.ppid = 0;
    gone.member = 0;
    if (gone.pid == 0) gone.pid = first_.hello_.pid;
    all.insert(all.begin(), gone);
  }
  *ret = std::move(all);
  return {};
}

// Processes that were made by clone(2) with a table in common would each have one of its own.
Trouble Tree::check_shared_tables() const {
  constexpr struct {
    int what;
    const char* name;
  } kTables[] = {{KCMP_FILES, "descriptors (CLONE_FILES)"},
                 {KCMP_FS, "working directory, root and umask (CLONE_FS)"}};
  std::map<pid_t, pid_t> process_of;  // a thread that lives
  std::vector<pid_t> tids;
  for (const auto& p : parts_) {
    tids.push_back(p->attempt.world->threads()[0].tid);
    process_of[tids.back()] = p->pid;
  }
  for (const auto& table : kTables) {
    const auto compare = [&](pid_t a, pid_t b) {
      return syscall(__NR_kcmp, a, b, table.what, 0, 0);
    };
    std::ranges::sort(tids, [&](pid_t a, pid_t b) { return compare(a, b) == 1; });
    const auto same =
        std::ranges::adjacent_find(tids, [&](pid_t a, pid_t b) { return compare(a, b) == 0; });
    if (same == tids.end()) continue;
    return trouble(Errc::kUnsupported, 0,
                   name_of_process(process_of[same[0]]) + " and " +
                       name_of_process(process_of[same[1]]) + " share their " + table.name +
                       ": that cannot be saved; checkpoint when one of them has ended");
  }
  return {};
}

Trouble Tree::capture_all() {
  Trouble bad = check_shared_tables();
  if (bad.bad()) return bad;
  share_memory_facts();
  // What is shared is described where it comes from, and restored in the same order.
  std::ranges::sort(parts_, {}, [&](const auto& p) {
    return std::ranges::find(stopped_, p->pid, &Process::pid) - stopped_.begin();
  });
  files_ = std::make_unique<TreeFiles>();
  for (auto& p : parts_) {
    if (!files_->add_process(p->pid, p->attempt.world->threads()[0].tid)) {
      return trouble(Errc::kSystem, ESRCH, "listing the descriptors of " + name_of_process(p->pid));
    }
  }
  for (auto& p : parts_) {
    bad = p->session->begin_generation(p->attempt, /*later=*/p != parts_[0]);
    if (bad.bad()) return bad;
  }
  for (auto& p : parts_) {
    p->session->others_ = {files_.get(), p->number};
    bad = p->session->capture(*p->attempt.world, p->attempt);
    p->session->others_ = {};
    if (bad.bad()) return bad;
  }
  bad = files_->sockets().describe();
  files_.reset();  // with what is open here of queues
  if (bad.bad()) return bad;
  std::vector<format::TreeRecord> tree;
  bad = describe_tree(&tree);
  if (bad.bad()) return bad;
  for (auto& p : parts_) {
    for (const format::TreeRecord& t : tree) {
      if (t.member == p->number && (p->number != 0)) p->attempt.model.tree = {t};
    }
    if (p->number == 0) p->attempt.model.tree = tree;
  }
  if (!first_gone_) return {};
  auto ended = std::make_unique<Part>();
  ended->session = &first_;
  ended->attempt.then = parts_[0]->attempt.then;
  ended->attempt.model.tree = tree;
  parts_.insert(parts_.begin(), std::move(ended));
  return {};
}

void Tree::let_all_go(bool failed) {
  for (auto& p : parts_) {
    if (p->stopped) p->session->let_go(p->attempt, failed);
  }
}

// The first process's last: it makes the checkpoint count.
Trouble Tree::commit_all() {
  Trouble bad;
  for (auto p = parts_.rbegin(); p != parts_.rend() && !bad.bad(); ++p) {
    Part& part = **p;
    const bool ended = part.pid == 0;
    bad = ended ? part.session->write_ended(part.attempt, first_status_)
                : part.session->write_image(part.attempt);
    part.session->last_captured_ = bad;
    part.committed = !bad.bad();
  }
  for (auto& p : parts_) {
    if (!p->committed) continue;
    if (bad.bad()) {
      p->session->revoke(p->attempt);
      continue;
    }
    p->session->accept(p->attempt);
  }
  if (bad.bad()) return bad;
  uint64_t written = 0, memory = 0;
  for (auto& p : parts_) {
    if (Member* m = member(p->pid); m != nullptr) m->listed_in = first_.sequence();
    written += p->session->image_bytes_;
    memory += p->session->memory_bytes_;
  }
  first_.image_bytes_ = first_.attempt_.written_bytes = written;
  first_.attempt_.memory_bytes = memory;
  return {};
}

void Tree::end_all(const Trouble& result) {
  for (auto& p : parts_) {
    p->attempt.world.reset();
    if (p->begun && p->session != &first_) p->session->end_checkpoint(result);
  }
  parts_.clear();
  finish_stop();
}

void Tree::finish_stop() {
  if (finish_threads(unfinished_, first_.pid(), &first_.died_status_)) first_.died_ = true;
  for (auto& m : members_) m->session->finish_stop();
}

void Tree::clear() {
  members_.clear();
  first_gone_ = false;
  first_status_ = 0;
}

void Tree::adopt_first(const format::TreeRecord& record) {
  first_record_ = record;
  first_gone_ = (record.flags & format::kTreeEnded) != 0;
  first_status_ = record.status;
}

Trouble Tree::adopt(const format::TreeRecord& record, const store::LoadedImage& image, pid_t pid) {
  auto m = std::make_unique<Member>();
  m->number = record.member;
  m->pid = pid;
  m->listed_in = first_.sequence();
  next_number_ = std::max(next_number_, record.member + 1);
  auto session = Session::create_member(first_, directory(m->number));
  if (!session) {
    return trouble(session.error().code, session.error().sys_errno,
                   directory(m->number) + ": " + session.error().what);
  }
  m->session = std::move(*session);
  m->session->set_program(pid);
  m->session->adopt(image);
  m->session->follow(first_);
  members_.push_back(std::move(m));
  return {};
}

}  // namespace cr::agent
