// SPDX-License-Identifier: MIT
// skeleton.cc - see skeleton.h. Invariant: as there. Context: N (agent), single-threaded.
#include "agent/skeleton.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "agent/launch_steps.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::TreeRecord;

// ---- the plan ---------------------------------------------------------------------------------

constexpr pid_t kOutside = 0;  // the session of kTop

class SkeletonPlanner {
 public:
  SkeletonPlanner(std::span<const TreeRecord> rows, std::vector<Bone>& bones)
      : rows_(rows), bones_(bones) {}
  Trouble run();

 private:
  static constexpr pid_t kAny = -1;
  pid_t session(const TreeRecord& r) const {
    return (r.flags & format::kTreeOutsideSession) != 0 ? kOutside : r.sid;
  }
  int bone_of(pid_t pid) const {
    auto it = by_pid_.find(pid);
    return it == by_pid_.end() ? kTop : it->second;
  }
  void place(int bone);
  void place_by_ghost(int bone, pid_t born_in);
  int add_ghost(pid_t pid, int parent);
  void choose_group(Bone& b);
  void sort();

  std::span<const TreeRecord> rows_;
  std::vector<Bone>& bones_;
  std::map<pid_t, int> by_pid_;
  std::map<pid_t, bool> group_made_;
  std::vector<pid_t> born_in_;  // by bone: the session in which it has to be born
};

int SkeletonPlanner::add_ghost(pid_t pid, int parent) {
  Bone ghost;
  ghost.pid = pid;
  ghost.parent = parent;
  ghost.new_session = pid != 0;
  bones_.push_back(ghost);
  born_in_.push_back(kAny);
  const int index = static_cast<int>(bones_.size()) - 1;
  if (pid != 0) by_pid_[pid] = index;
  return index;
}

// An orphan: its parent was in that session, and has ended.
void SkeletonPlanner::place_by_ghost(int bone, pid_t born_in) {
  const int leader = bone_of(born_in);
  const int parent = bones_[static_cast<size_t>(bone)].parent;
  const int ghost = leader != kTop ? add_ghost(0, leader) : add_ghost(born_in, parent);
  bones_[static_cast<size_t>(bone)].parent = ghost;
}

// A process is born in the session that its parent is in just then.
void SkeletonPlanner::place(int index) {
  Bone& b = bones_[static_cast<size_t>(index)];
  const TreeRecord& r = rows_[static_cast<size_t>(b.row)];
  pid_t born_in = born_in_[static_cast<size_t>(index)];
  if (!b.new_session) born_in = session(r);
  if (born_in == kAny) return;
  if (b.parent == kTop) {
    if (born_in != kOutside) place_by_ghost(index, born_in);
    return;
  }
  const Bone& parent = bones_[static_cast<size_t>(b.parent)];
  const pid_t parents = session(rows_[static_cast<size_t>(parent.row)]);
  if (parents == born_in) return;
  pid_t& parent_born_in = born_in_[static_cast<size_t>(b.parent)];
  if (parent.new_session && (parent_born_in == kAny || parent_born_in == born_in)) {
    parent_born_in = born_in;
    b.before_setsid = true;
    return;
  }
  place_by_ghost(index, born_in);
}

void SkeletonPlanner::choose_group(Bone& b) {
  const TreeRecord& r = rows_[static_cast<size_t>(b.row)];
  if ((r.flags & format::kTreeOutsideGroup) != 0 || b.new_session) return;
  if (r.pgid == r.pid) {
    b.new_group = true;
    return;
  }
  b.group = r.pgid;
  if (bone_of(r.pgid) != kTop || group_made_[r.pgid]) return;
  group_made_[r.pgid] = b.makes_group = true;
}

void SkeletonPlanner::sort() {
  std::vector<int> order, place(bones_.size(), kTop);
  for (bool more = true; more;) {
    more = false;
    for (size_t i = 0; i < bones_.size(); i++) {
      const int parent = bones_[i].parent;
      if (place[i] != kTop) continue;
      if (parent != kTop && place[static_cast<size_t>(parent)] == kTop) continue;
      place[i] = static_cast<int>(order.size());
      order.push_back(static_cast<int>(i));
      more = true;
    }
  }
  std::vector<Bone> sorted;
  for (const int i : order) {
    Bone b = bones_[static_cast<size_t>(i)];
    if (b.parent != kTop) b.parent = place[static_cast<size_t>(b.parent)];
    sorted.push_back(std::move(b));
  }
  bones_ = std::move(sorted);
}

Trouble SkeletonPlanner::run() {
  for (size_t i = 0; i < rows_.size(); i++) {
    const TreeRecord& r = rows_[i];
    if ((r.flags & format::kTreeEnded) != 0) continue;
    Bone b;
    b.pid = r.pid;
    b.row = static_cast<int>(i);
    b.new_session = r.sid == r.pid;
    b.zombie = (r.flags & format::kTreeZombie) != 0;
    b.subreaper = (r.flags & format::kTreeSubreaper) != 0;
    b.status = r.status;
    b.parent_pid = r.ppid;
    b.name = r.name;
    if (!by_pid_.emplace(r.pid, static_cast<int>(bones_.size())).second) {
      return trouble(Errc::kDamaged, 0,
                     "the tree has process id " + std::to_string(r.pid) + " twice");
    }
    bones_.push_back(b);
    born_in_.push_back(kAny);
  }
  const size_t own = bones_.size();
  for (size_t i = 0; i < own; i++) {
    bones_[i].parent = bone_of(rows_[static_cast<size_t>(bones_[i].row)].ppid);
  }
  // Children first: what they need of their parents decides where those are born.
  for (size_t i = own; i-- > 0;) place(static_cast<int>(i));
  for (size_t i = 0; i < own; i++) choose_group(bones_[i]);
  const size_t all = bones_.size();
  sort();
  if (bones_.size() != all) return trouble(Errc::kDamaged, 0, "the tree's parents form a circle");
  return {};
}

// ---- making -----------------------------------------------------------------------------------

enum Phase : uint32_t { kMade = 1, kGroupsMade, kGrouped, kGhostsGone, kGivenUp };

struct Board {       // shared by all of them
  uint32_t phase;    // futex
  uint32_t arrived;  // in this phase
  int32_t failed_errno;
  char failed[160];
};

class SkeletonMaker {
 public:
  SkeletonMaker(const std::vector<Bone>& bones, const std::function<void(int)>& become)
      : bones_(bones), become_(become) {}
  Trouble run();

 private:
  bool make_children(int of, bool before_setsid);
  pid_t make(int index);
  [[noreturn]] void be(int index);
  [[noreturn]] void end_like(const Bone& b);
  pid_t make_group_ghost(pid_t group);
  void arrive_and_wait(Phase phase);
  void fail(const char* what, pid_t pid, int error);
  pid_t spare_id();
  Trouble await_all(uint32_t count, Phase next);
  bool settle(int index);
  Trouble failure() const;
  void set_phase(uint32_t phase);
  uint32_t load(const uint32_t& w) const { return __atomic_load_n(&w, __ATOMIC_ACQUIRE); }

  const std::vector<Bone>& bones_;
  const std::function<void(int)>& become_;
  Board* board_ = nullptr;
  std::vector<pid_t> own_ghosts_;  // children of this process
};

constexpr uint64_t kPatienceNs = 20000000000ull;

// Of the first that fails.
void SkeletonMaker::fail(const char* what, pid_t pid, int error) {
  int32_t none = 0;
  if (!__atomic_compare_exchange_n(&board_->failed_errno, &none, error, false, __ATOMIC_ACQ_REL,
                                   __ATOMIC_ACQUIRE)) {
    return;
  }
  snprintf(board_->failed, sizeof(board_->failed), "%s process %d", what, static_cast<int>(pid));
}

void SkeletonMaker::arrive_and_wait(Phase phase) {
  __atomic_add_fetch(&board_->arrived, 1, __ATOMIC_ACQ_REL);
  rawsys::sys_futex(&board_->arrived, FUTEX_WAKE, 1);
  const uint64_t begin = rawsys::now_ns();
  for (;;) {
    const uint32_t now = load(board_->phase);
    if (now >= phase) return;
    const timespec slice{0, 100000000};
    rawsys::sys_futex(&board_->phase, FUTEX_WAIT, now, &slice);
    if (rawsys::now_ns() - begin > kPatienceNs) _exit(125);
  }
}

// A ghost shall not get an id that somebody needs who is not made yet.
pid_t SkeletonMaker::spare_id() {
  pid_t highest = 300;
  for (const Bone& b : bones_) highest = std::max({highest, b.pid, b.group});
  for (pid_t id = highest + 1; id < highest + 2000; id++) {
    if (kill(id, 0) != 0 && errno == ESRCH) {
      const pid_t pid = fork_with_id(id, 0);
      if (pid >= 0 || errno != EEXIST) return pid;
    }
  }
  errno = EAGAIN;
  return -1;
}

pid_t SkeletonMaker::make(int index) {
  const Bone& b = bones_[static_cast<size_t>(index)];
  const pid_t pid = b.pid != 0 ? fork_with_id(b.pid, 0) : spare_id();
  if (pid == 0) be(index);
  if (pid < 0) fail("making", b.pid, errno);
  if (pid > 0 && b.row < 0) own_ghosts_.push_back(pid);
  return pid;
}

bool SkeletonMaker::make_children(int of, bool before_setsid) {
  for (size_t i = 0; i < bones_.size(); i++) {
    if (bones_[i].parent != of || bones_[i].before_setsid != before_setsid) continue;
    if (make(static_cast<int>(i)) < 0) return false;
  }
  return true;
}

pid_t SkeletonMaker::make_group_ghost(pid_t group) {
  const pid_t pid = fork_with_id(group, 0);
  if (pid == 0) {
    setpgid(0, 0);
    arrive_and_wait(kGrouped);
    _exit(0);
  }
  if (pid < 0) fail("making the leader of a group,", group, errno);
  return pid;
}

[[noreturn]] void SkeletonMaker::end_like(const Bone& b) {
  if (b.zombie && WIFSIGNALED(b.status)) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    signal(WTERMSIG(b.status), SIG_DFL);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_UNBLOCK, &all, nullptr);
    kill(static_cast<pid_t>(syscall(__NR_getpid)), WTERMSIG(b.status));
  }
  _exit(b.zombie ? WEXITSTATUS(b.status) : 0);
}

[[noreturn]] void SkeletonMaker::be(int index) {
  const Bone& b = bones_[static_cast<size_t>(index)];
  own_ghosts_.clear();
  signal(SIGCHLD, SIG_DFL);
  if (b.zombie) prctl(PR_SET_NAME, b.name.c_str());
  if (b.subreaper) prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (!make_children(index, true)) _exit(125);
  if (b.new_session && setsid() < 0) fail("beginning the session of", b.pid, errno);
  // Children inherit it; otherwise only the leader would have it.
  if (b.terminal_fd >= 0 && ioctl(b.terminal_fd, TIOCSCTTY, 0) != 0) {
    fail("giving its controlling terminal to", b.pid, errno);
  }
  if (!make_children(index, false)) _exit(125);
  arrive_and_wait(kMade);
  // Not before: its children may belong to the group that it was born in.
  if (b.new_group && setpgid(0, 0) != 0) fail("beginning the group of", b.pid, errno);
  const pid_t ghost = b.makes_group ? make_group_ghost(b.group) : 0;
  arrive_and_wait(kGroupsMade);
  if (b.group != 0 && setpgid(0, b.group) != 0) fail("giving its group to", b.pid, errno);
  arrive_and_wait(kGrouped);
  if (b.terminal_fd >= 0 && b.foreground != 0) {
    signal(SIGTTOU, SIG_IGN);  // from the background
    (void)tcsetpgrp(b.terminal_fd, b.foreground);
  }
  if (ghost > 0) own_ghosts_.push_back(ghost);
  if (b.zombie || b.row < 0) end_like(b);
  if (!settle(index)) fail("giving its parent to", b.pid, ESRCH);
  arrive_and_wait(kGhostsGone);
  if (load(board_->phase) == kGivenUp) _exit(125);
  become_(b.row);
  _exit(125);
}

Trouble SkeletonMaker::failure() const {
  const int e = __atomic_load_n(&board_->failed_errno, __ATOMIC_ACQUIRE);
  return trouble(Errc::kPermission, e, std::string(board_->failed) + ": " + strerror(e));
}

Trouble SkeletonMaker::await_all(uint32_t count, Phase next) {
  const uint64_t begin = rawsys::now_ns();
  for (;;) {
    const uint32_t now = load(board_->arrived);
    if (load(reinterpret_cast<uint32_t&>(board_->failed_errno)) != 0) return failure();
    if (now >= count) break;
    if (rawsys::now_ns() - begin > kPatienceNs / 2) {
      return trouble(Errc::kTimeout, ETIMEDOUT, "the processes of the tree could not all be made");
    }
    const timespec slice{0, 10000000};
    rawsys::sys_futex(&board_->arrived, FUTEX_WAIT, now, &slice);
  }
  __atomic_store_n(&board_->arrived, 0u, __ATOMIC_RELEASE);
  set_phase(next);
  return {};
}

void SkeletonMaker::set_phase(uint32_t phase) {
  __atomic_store_n(&board_->phase, phase, __ATOMIC_RELEASE);
  rawsys::sys_futex(&board_->phase, FUTEX_WAKE, 0x7fffffff);
}

// Its children that shall be dead are, and it has its parent: orphans get theirs when ghosts end.
bool SkeletonMaker::settle(int index) {
  for (const pid_t ghost : own_ghosts_) waitpid(ghost, nullptr, 0);
  for (const Bone& child : bones_) {
    if (child.parent != index || !child.zombie) continue;
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOWAIT);
  }
  const Bone& b = bones_[static_cast<size_t>(index)];
  const uint64_t begin = rawsys::now_ns();
  while (b.parent_pid != 0 && syscall(__NR_getppid) != b.parent_pid) {
    if (rawsys::now_ns() - begin > kPatienceNs / 4) return false;
    const timespec t{0, 200000};
    nanosleep(&t, nullptr);
  }
  return true;
}

Trouble SkeletonMaker::run() {
  void* page =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return trouble(Errc::kNoMemory, errno, "memory to make the processes");
  board_ = static_cast<Board*>(page);
  Trouble bad;
  if (!make_children(kTop, false)) bad = failure();
  const auto all = static_cast<uint32_t>(bones_.size());
  const auto makers = static_cast<uint32_t>(
      std::ranges::count_if(bones_, [](const Bone& b) { return b.makes_group; }));
  const auto live = static_cast<uint32_t>(
      std::ranges::count_if(bones_, [](const Bone& b) { return b.row >= 0 && !b.zombie; }));
  if (!bad.bad()) bad = await_all(all, kMade);
  if (!bad.bad()) bad = await_all(all + makers, kGroupsMade);
  if (!bad.bad()) bad = await_all(all, kGrouped);
  for (const pid_t ghost : bad.bad() ? std::vector<pid_t>() : own_ghosts_) {
    waitpid(ghost, nullptr, 0);
  }
  if (!bad.bad()) bad = await_all(live, kGhostsGone);
  if (bad.bad()) set_phase(kGivenUp);
  munmap(page, sizeof(Board));
  return bad;
}

}  // namespace

Trouble plan_skeleton(std::span<const TreeRecord> rows, std::vector<Bone>* ret) {
  ret->clear();
  return SkeletonPlanner(rows, *ret).run();
}

Trouble make_skeleton(const std::vector<Bone>& bones, const std::function<void(int)>& become) {
  return SkeletonMaker(bones, become).run();
}

}  // namespace cr::agent
