// SPDX-License-Identifier: MIT
// skeleton_test.cc - the order in which a tree of processes is made: a model of fork, setsid,
// setpgid and reparenting carries the plan out, and the result must be what was recorded.
#include "agent/skeleton.h"

#include <criterion/criterion.h>
#include <signal.h>

#include <map>
#include <random>

using namespace cr;
using namespace cr::agent;
using format::TreeRecord;

namespace {

constexpr pid_t kOutsideSession = 9001, kOutsideGroup = 9002;

TreeRecord row(pid_t pid, pid_t ppid, pid_t pgid, pid_t sid, uint32_t flags = 0) {
  TreeRecord t{};
  t.pid = pid;
  t.ppid = ppid;
  t.pgid = pgid;
  t.sid = sid;
  if (pgid == kOutsideGroup) flags |= format::kTreeOutsideGroup;
  if (sid == kOutsideSession) flags |= format::kTreeOutsideSession;
  t.flags = flags;
  t.member = (flags & format::kTreeZombie) != 0 ? format::kTreeNoImage : 0;
  return t;
}

struct Made {
  pid_t parent, pgid, sid;
};

// What the kernel does when the plan is carried out.
class Kernel {
 public:
  explicit Kernel(const std::vector<Bone>& bones) : bones_(bones), ids_(bones.size()) {
    pid_t spare = 50000;
    for (size_t i = 0; i < bones.size(); i++) ids_[i] = bones[i].pid != 0 ? bones[i].pid : spare++;
    make_children(kTop, {0, kOutsideGroup, kOutsideSession}, false);
    join_groups();
    end_ghosts();
  }
  std::map<pid_t, Made> made;
  std::string wrong;

 private:
  void make_children(int of, const Made& parent, bool before) {
    for (size_t i = 0; i < bones_.size(); i++) {
      if (bones_[i].parent != of || bones_[i].before_setsid != before) continue;
      make(i, parent);
    }
  }
  void make(size_t i, const Made& parent) {
    const Bone& b = bones_[i];
    const pid_t pid = ids_[i];
    if (made.contains(pid)) wrong = "made twice: " + std::to_string(pid);
    Made me{b.parent == kTop ? 0 : ids_[static_cast<size_t>(b.parent)], parent.pgid, parent.sid};
    make_children(static_cast<int>(i), me, true);
    if (b.new_session) me.sid = me.pgid = pid;
    make_children(static_cast<int>(i), me, false);
    made[pid] = me;
  }
  void join_groups() {
    std::map<pid_t, pid_t> session_of_group;
    for (size_t i = 0; i < bones_.size(); i++) {
      if (bones_[i].new_group) made[ids_[i]].pgid = ids_[i];
    }
    for (const auto& [pid, m] : made) {
      if (m.pgid == pid) session_of_group[pid] = m.sid;
    }
    for (size_t i = 0; i < bones_.size(); i++) {
      if (bones_[i].makes_group) session_of_group[bones_[i].group] = made[ids_[i]].sid;
    }
    for (size_t i = 0; i < bones_.size(); i++) {
      if (bones_[i].group == 0) continue;
      auto it = session_of_group.find(bones_[i].group);
      if (it == session_of_group.end() || it->second != made[ids_[i]].sid) {
        wrong = "setpgid of " + std::to_string(ids_[i]) + ": EPERM";
      }
      made[ids_[i]].pgid = bones_[i].group;
    }
  }
  void end_ghosts() {
    for (size_t i = 0; i < bones_.size(); i++) {
      if (bones_[i].row >= 0 && !bones_[i].zombie) continue;
      for (auto& [pid, m] : made) {
        if (m.parent == ids_[i]) m.parent = reaper_of(i);
      }
      if (bones_[i].row < 0) made.erase(ids_[i]);
    }
  }
  pid_t reaper_of(size_t i) const {
    for (int at = bones_[i].parent; at != kTop; at = bones_[static_cast<size_t>(at)].parent) {
      const Bone& b = bones_[static_cast<size_t>(at)];
      if (b.subreaper && b.row >= 0 && !b.zombie) return ids_[static_cast<size_t>(at)];
    }
    return 0;
  }

  const std::vector<Bone>& bones_;
  std::vector<pid_t> ids_;
};

void check(const std::vector<TreeRecord>& rows) {
  std::vector<Bone> bones;
  const Trouble bad = plan_skeleton(rows, &bones);
  cr_assert(!bad.bad(), "%s", bad.text.c_str());
  const Kernel kernel(bones);
  cr_expect(kernel.wrong.empty(), "%s", kernel.wrong.c_str());
  size_t expected = 0;
  for (const TreeRecord& t : rows) {
    if ((t.flags & format::kTreeEnded) != 0) continue;
    expected++;
    auto it = kernel.made.find(t.pid);
    cr_assert(it != kernel.made.end(), "%d is not made", t.pid);
    const Made& m = it->second;
    cr_expect(m.parent == t.ppid && m.pgid == t.pgid && m.sid == t.sid,
              "%d: parent %d group %d session %d, expected %d %d %d", t.pid, m.parent, m.pgid,
              m.sid, t.ppid, t.pgid, t.sid);
  }
  cr_expect(kernel.made.size() == expected, "%zu processes, expected %zu", kernel.made.size(),
            expected);
}

}  // namespace

Test(skeleton, one_process_of_the_outside) { check({row(10, 0, kOutsideGroup, kOutsideSession)}); }

Test(skeleton, a_pipeline_of_a_shell) {
  check({row(10, 0, 10, 10), row(11, 10, 11, 10), row(12, 10, 11, 10), row(13, 12, 13, 10)});
}

Test(skeleton, a_group_whose_leader_is_gone) {
  check({row(10, 0, kOutsideGroup, kOutsideSession), row(11, 10, 99, kOutsideSession),
         row(12, 10, 99, kOutsideSession)});
}

Test(skeleton, a_child_from_before_setsid) {
  check({row(10, 0, kOutsideGroup, kOutsideSession), row(11, 10, 11, 11),
         row(12, 11, kOutsideGroup, kOutsideSession), row(13, 11, 11, 11)});
}

Test(skeleton, born_before_two_sessions) {
  check({row(10, 0, kOutsideGroup, kOutsideSession), row(11, 10, 11, 11), row(12, 11, 12, 12),
         row(13, 12, kOutsideGroup, kOutsideSession)});
}

Test(skeleton, a_daemon_whose_session_leader_is_gone) {
  check({row(10, 0, kOutsideGroup, kOutsideSession), row(20, 0, 19, 19), row(21, 0, 19, 19),
         row(22, 20, 22, 19)});
}

Test(skeleton, an_orphan_of_a_session_whose_leader_lives) {
  check({row(10, 0, kOutsideGroup, kOutsideSession), row(11, 10, 11, 11), row(12, 0, 11, 11)});
}

Test(skeleton, a_subreaper_takes_orphans) {
  check({row(10, 0, kOutsideGroup, kOutsideSession),
         row(11, 10, kOutsideGroup, kOutsideSession, format::kTreeSubreaper), row(12, 11, 33, 33),
         row(13, 11, kOutsideGroup, kOutsideSession)});
}

Test(skeleton, zombies_lead_groups_and_sessions) {
  check({row(10, 0, kOutsideGroup, kOutsideSession), row(11, 10, 11, 11, format::kTreeZombie),
         row(12, 0, 11, 11), row(13, 10, 13, kOutsideSession, format::kTreeZombie),
         row(14, 10, 13, kOutsideSession)});
}

Test(skeleton, the_first_process_has_ended) {
  check({row(10, 0, 10, 10, format::kTreeEnded), row(11, 0, 10, 10), row(12, 11, 10, 10)});
}

Test(skeleton, an_id_twice_is_refused) {
  std::vector<Bone> bones;
  cr_expect(plan_skeleton(std::vector<TreeRecord>{row(10, 0, 10, 10), row(10, 10, 10, 10)}, &bones)
                .bad());
}

// A model of processes that fork, call setsid and setpgid, and end, at random: what is left of them
// is what the plan has to make.
Test(skeleton, whatever_processes_do) {
  const char* given = getenv("CR_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(atoi(given)) : 4711;
  std::mt19937 random(seed);
  for (int round = 0; round < 400; round++) {
    std::map<pid_t, TreeRecord> all;
    std::map<pid_t, pid_t> parent_then;
    all[100] = row(100, 0, kOutsideGroup, kOutsideSession);
    pid_t next = 101;
    const auto pick = [&] {
      auto it = all.begin();
      std::advance(it, static_cast<long>(random() % all.size()));
      return it->first;
    };
    for (int step = 0; step < 25; step++) {
      TreeRecord& t = all[pick()];
      switch (random() % 5) {
        case 0:
        case 1: {
          const TreeRecord child = row(next, t.pid, t.pgid, t.sid);
          all[next++] = child;
          break;
        }
        case 2:
          if (t.pgid == t.pid) break;  // setsid is EPERM for a group leader
          t.sid = t.pgid = t.pid;
          t.flags &= ~(format::kTreeOutsideGroup | format::kTreeOutsideSession);
          break;
        case 3:
          if (t.sid == t.pid) break;
          t.pgid = t.pid;
          t.flags &= ~format::kTreeOutsideGroup;
          break;
        case 4: {
          if (t.pid == 100) break;
          const pid_t gone = t.pid;
          for (auto& [pid, o] : all) {
            if (o.ppid == gone) o.ppid = 0;  // there is no subreaper
          }
          all.erase(gone);
          break;
        }
      }
    }
    std::vector<TreeRecord> rows;
    std::vector<pid_t> level = {0};
    while (!level.empty()) {
      std::vector<pid_t> below;
      for (const pid_t parent : level) {
        for (const auto& [pid, t] : all) {
          if (t.ppid != parent) continue;
          rows.push_back(t);
          below.push_back(pid);
        }
      }
      level = below;
    }
    check(rows);
  }
}
