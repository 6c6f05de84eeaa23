// SPDX-License-Identifier: MIT
// semaphores.cc - see semaphores.h. Invariant: as there. Context: N (agent).
#include "agent/semaphores.h"

#include <errno.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <sstream>

#include "format/semaphores.h"
#include "os/proc.h"
#include "os/sysv_id.h"

namespace cr::agent {
namespace {

using format::SemaphoreSetRecord;
using format::SemaphoreTable;
using Values = std::vector<uint16_t>;

constexpr int kMostOpsAtOnce = 500;   // SEMOPM
constexpr uint16_t kLargest = 32767;  // SEMVMX

union Argument {  // union semun, which the C library leaves to its users
  int value;
  semid_ds* status;
  uint16_t* values;
  seminfo* info;
};

std::string name_of_set(int32_t id, int32_t key) {
  char text[64];
  snprintf(text, sizeof(text), "semaphore set %d (key 0x%x)", id, static_cast<unsigned>(key));
  return text;
}

bool status_of(int32_t id, semid_ds* ret) {
  Argument a{};
  a.status = ret;
  return semctl(id, 0, IPC_STAT, a) == 0;
}

bool values_of(int32_t id, size_t count, Values* ret) {
  ret->assign(count, 0);
  Argument a{};
  a.values = ret->data();
  return semctl(id, 0, GETALL, a) == 0;
}

bool set_values(int32_t id, Values values) {
  Argument a{};
  a.values = values.data();
  return semctl(id, 0, SETALL, a) == 0;
}

// Has a thread made a call with SEM_UNDO that is not in the table yet?
bool is_under_way(World& world, const SemaphoreTable& t) {
  for (const format::UndoCall& c : t.calls) {
    if (c.frame == 0) continue;
    for (const Thread& thread : world.threads()) {
      const bool inside = thread.inner_tid == c.tid && thread.regs.rsp <= c.frame;
      const bool waits = thread.syscall_nr == __NR_semop || thread.syscall_nr == __NR_semtimedop;
      if (inside && !waits) return true;
    }
  }
  return t.lock != 0;
}

Trouble describe_set(int32_t id, const SemaphoreTable& t, store::Model& model) {
  semid_ds ds{};
  if (!status_of(id, &ds)) {
    // Removed, by whomever.
    if (errno == EINVAL || errno == EIDRM) return {};
    return trouble(Errc::kPermission, errno,
                   name_of_set(id, 0) + " cannot be read: " + strerror(errno) +
                       "; the program needs read permission for it");
  }
  SemaphoreSetRecord r{};
  r.id = id;
  r.key = ds.sem_perm.__key;
  r.uid = ds.sem_perm.uid;
  r.gid = ds.sem_perm.gid;
  r.mode = ds.sem_perm.mode & 0777;
  if (ds.sem_otime != 0) r.flags |= format::kSemaphoresUsed;
  Values values;
  if (!values_of(id, ds.sem_nsems, &values)) {
    return trouble(Errc::kPermission, errno,
                   name_of_set(id, r.key) + " cannot be read: " + strerror(errno));
  }
  r.values = model.add_blob(values.data(), values.size() * sizeof(values[0]));
  std::vector<int16_t> adjustments(values.size());
  bool any = false;
  for (uint32_t i = 0; i < t.adjustment_count; i++) {
    const format::SemaphoreAdjustment& a = t.adjustments[i];
    if (a.set != id || a.number >= adjustments.size()) continue;
    adjustments[a.number] = a.adjust;
    any = any || a.adjust != 0;
  }
  if (any) r.adjustments = model.add_blob(adjustments.data(), 2 * adjustments.size());
  model.semaphores.push_back(r);
  return {};
}

Trouble make_set(const SemaphoreSetRecord& r, size_t count) {
  const std::string what = name_of_set(r.id, r.key);
  const int flags = IPC_CREAT | IPC_EXCL | static_cast<int>(r.mode);
  const os::SysvKind kind{"/proc/sys/kernel/sem_next_id",
                          [&] { return semget(r.key, static_cast<int>(count), flags); },
                          [](int other) { semctl(other, 0, IPC_RMID); }};
  const int id = os::make_with_id(kind, r.id);
  if (id < 0) {
    return trouble(Errc::kSystem, errno,
                   what + " is gone, and cannot be made again: " + strerror(errno));
  }
  if (id != r.id) {
    semctl(id, 0, IPC_RMID);
    return trouble(Errc::kPermission, EPERM,
                   what +
                       " is gone, and its id, by which the program knows it, cannot be had again; "
                       "run crrestore as root, where no other set has that id");
  }
  semid_ds ds{};
  if (geteuid() == 0 && status_of(id, &ds)) {
    ds.sem_perm.uid = r.uid;
    ds.sem_perm.gid = r.gid;
    Argument a{};
    a.status = &ds;
    semctl(id, 0, IPC_SET, a);
  }
  return {};
}

}  // namespace

void SemaphoreUsers::find(pid_t pid, std::set<int32_t>* ret) {
  constexpr long kTickSeconds = 2;  // the kernel's times are whole seconds
  seminfo info{};
  Argument a{};
  a.info = &info;
  if (semctl(0, 0, SEM_INFO, a) >= 0 && info.semusz == 0) {  // there is no set: as a rule
    sets_.clear();
    return;
  }
  const long now = time(nullptr);
  std::istringstream lines(os::read_or_empty("/proc/sysvipc/sem"));
  std::string line;
  std::getline(lines, line);
  std::map<int32_t, Set> there;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    long key = 0, number = 0, mode = 0, count = 0, owner = 0;
    Set set;
    words >> key >> number >> mode >> count;
    for (int i = 0; i < 4; i++) words >> owner;
    if (!(words >> set.used_s >> set.changed_s)) continue;
    const auto id = static_cast<int32_t>(number);
    const auto known = sets_.find(id);
    const long newest = std::max(set.used_s, set.changed_s);
    if (known != sets_.end() && known->second.used_s == set.used_s &&
        known->second.changed_s == set.changed_s && newest + kTickSeconds < known->second.asked_s) {
      set = known->second;
    } else {
      set.asked_s = now;
      for (int i = 0; i < count; i++) {
        const int user = semctl(id, i, GETPID);
        if (user < 0) break;  // not readable: not ours
        if (user != 0) set.users.push_back(user);
      }
    }
    if (std::ranges::find(set.users, pid) != set.users.end()) ret->insert(id);
    there.emplace(id, std::move(set));
  }
  sets_ = std::move(there);
}

Trouble describe_semaphores(World& world, pid_t pid, uint64_t table, SemaphoreUsers& users,
                            store::Model& model) {
  const auto t = std::make_unique<SemaphoreTable>();
  std::set<int32_t> sets;
  if (table != 0 && !world.read_memory(table, t.get(), sizeof(*t))) {
    return trouble(Errc::kSystem, EFAULT, "the library's table of semaphores cannot be read");
  }
  const pid_t inner =
      world.nested()
          ? os::innermost_id(
                os::read_or_empty(os::task_path(pid, world.threads()[0].tid, "status")), "NStgid")
          : pid;
  if (t->owner != inner) {  // of the parent: nothing is inherited but what is known
    t->adjustment_count = 0;
    memset(t->calls, 0, sizeof(t->calls));
  }
  if (t->overflowed != 0) {
    return trouble(Errc::kUnsupported, ENOMEM,
                   "the program uses more System V semaphores than can be kept track of (" +
                       std::to_string(format::kMostSemaphoreSets) + " sets, " +
                       std::to_string(format::kMostAdjustments) + " with SEM_UNDO)");
  }
  if (is_under_way(world, *t)) {
    return trouble(Errc::kCannotStop, EAGAIN,
                   "a thread is about to note a change of a semaphore; try again");
  }
  for (uint32_t i = 0; i < std::min(t->set_count, format::kMostSemaphoreSets); i++) {
    sets.insert(t->sets[i]);
  }
  users.find(pid, &sets);
  for (const int32_t id : sets) {
    Trouble bad = describe_set(id, *t, model);
    if (bad.bad()) return bad;
  }
  return {};
}

Trouble set_semaphores(const format::ImageView& image, std::set<int32_t>* done,
                       const std::function<void(std::function<void()>)>& undo) {
  for (const SemaphoreSetRecord& r : image.semaphores) {
    if (done != nullptr && !done->insert(r.id).second) continue;
    const auto wanted = image.states<uint16_t>(r.values);
    const std::string what = name_of_set(r.id, r.key);
    semid_ds ds{};
    if (!status_of(r.id, &ds)) {
      if (errno != EINVAL && errno != EIDRM) {
        return trouble(Errc::kPermission, errno, what + ": " + strerror(errno));
      }
      Trouble bad = make_set(r, wanted.size());
      if (bad.bad()) return bad;
      undo([id = r.id] { semctl(id, 0, IPC_RMID); });
    } else if (ds.sem_perm.__key != r.key || ds.sem_nsems != wanted.size()) {
      return trouble(Errc::kBusy, EEXIST,
                     what + ": another set has that id now; remove it (ipcrm -s " +
                         std::to_string(r.id) + "), then try again");
    } else {
      Values before;
      if (values_of(r.id, wanted.size(), &before)) {
        undo([id = r.id, before] { set_values(id, before); });
      }
    }
    if (!set_values(r.id, Values(wanted.begin(), wanted.end()))) {
      return trouble(Errc::kPermission, errno, what + " cannot be set: " + strerror(errno));
    }
  }
  return {};
}

std::string missing_semaphores(const format::ImageView& image) {
  for (const SemaphoreSetRecord& r : image.semaphores) {
    semid_ds ds{};
    if (!status_of(r.id, &ds) || ds.sem_perm.__key != r.key ||
        ds.sem_nsems != image.states<uint16_t>(r.values).size()) {
      return name_of_set(r.id, r.key) + " was removed";
    }
  }
  return "";
}

// Each pair changes nothing but what is noted of the process: a step without SEM_UNDO and the same
// one back with it. Where there is nothing to adjust, a pair makes the process the last user again.
void adopt_semaphores(const format::ImageView& image, Recipe& recipe) {
  for (const SemaphoreSetRecord& r : image.semaphores) {
    const auto values = image.states<uint16_t>(r.values);
    const auto adjustments = image.states<int16_t>(r.adjustments);
    std::vector<sembuf> ops;
    const auto flush = [&] {
      if (ops.empty()) return;
      recipe.call(name_of_set(r.id, r.key), __NR_semop,
                  {r.id, recipe.data(ops.data(), ops.size() * sizeof(ops[0])), ops.size()});
      ops.clear();
    };
    for (size_t i = 0; i < adjustments.size(); i++) {
      const int16_t a = adjustments[i];
      if (a == 0) continue;
      const auto number = static_cast<uint16_t>(i);
      const auto up = static_cast<int16_t>(a < 0 ? -a : a), down = static_cast<int16_t>(-up);
      const int16_t undone = SEM_UNDO | IPC_NOWAIT, plain = IPC_NOWAIT;
      // Its end will add a: the step with SEM_UNDO is -a.
      const sembuf rise{number, up, a < 0 ? undone : plain};
      const sembuf fall{number, down, a < 0 ? plain : undone};
      const bool first_down = values[i] > kLargest - up;
      ops.push_back(first_down ? fall : rise);
      ops.push_back(first_down ? rise : fall);
      if (ops.size() + 2 > kMostOpsAtOnce) flush();
    }
    if (adjustments.empty() && (r.flags & format::kSemaphoresUsed) != 0) {
      const int16_t step = values[0] > 0 ? -1 : 1;
      ops.push_back({0, step, IPC_NOWAIT});
      ops.push_back({0, static_cast<int16_t>(-step), IPC_NOWAIT});
    }
    flush();
  }
}

}  // namespace cr::agent
