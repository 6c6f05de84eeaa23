// SPDX-License-Identifier: MIT
// process_tree.cc - see process_tree.h. Invariant: as there. Context: N (agent).
#include "agent/process_tree.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

// What has copied a file for the journal (src/interpose/journal.cc) and has not been waited for
// yet: it ends without a signal, and has no memory any more. Whoever was made that way by the
// program itself still has.
bool is_done_copying(pid_t pid) {
  const std::string id = std::to_string(pid);
  const std::string stat = os::read_or_empty("/proc/" + id + "/stat");
  if (os::read_or_empty("/proc/" + id + "/status").find("\nVmSize:") != std::string::npos) {
    return false;
  }
  constexpr int kExitSignal = 38, kBehindName = 3;
  size_t at = stat.find_last_of(')');
  for (int field = kBehindName; at != std::string::npos && field <= kExitSignal; field++) {
    at = stat.find(' ', at + 1);
  }
  return at == std::string::npos || strtol(stat.c_str() + at, nullptr, 10) == 0;
}

}  // namespace

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> all;
  auto tasks = os::list_tasks(pid);
  for (const pid_t tid : tasks ? *tasks : std::vector<pid_t>()) {
    const std::string text = os::read_or_empty(os::task_path(pid, tid, "children"));
    for (const char* at = text.c_str(); *at != 0;) {
      char* end = nullptr;
      const long child = strtol(at, &end, 10);
      if (end == at) break;
      if (!is_done_copying(static_cast<pid_t>(child))) all.push_back(static_cast<pid_t>(child));
      at = end + strspn(end, " \n");
    }
  }
  return all;
}

bool is_zombie(pid_t pid) {
  // The first thread of a process whose other threads live on is a zombie too.
  const std::string status = os::read_or_empty(os::task_path(pid, pid, "status"));
  if (!os::status_field(status, "State").starts_with("Z")) return false;
  auto tasks = os::list_tasks(pid);
  return !tasks || tasks->size() <= 1;
}

bool has_ended(pid_t pid) { return is_zombie(pid) || (kill(pid, 0) != 0 && errno == ESRCH); }

double age_of(pid_t pid) {
  auto stat = os::read_stat(pid, pid);
  if (!stat) return 0;
  const auto now = static_cast<double>(rawsys::clock_ns(CLOCK_BOOTTIME)) / 1e9;
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  return std::max(0.0, now - static_cast<double>(stat->start_time) / ticks);
}

std::string name_of_process(pid_t pid) {
  std::string name = os::read_or_empty(os::task_path(pid, pid, "comm"));
  if (!name.empty()) name.pop_back();
  return "process " + std::to_string(pid) + " (" + name + ")";
}

bool share_memory(pid_t a, pid_t b) {
  if (a <= 0 || b <= 0) return false;
  return syscall(__NR_kcmp, os::living_task(a), os::living_task(b), KCMP_VM, 0, 0) == 0;
}

namespace {

// As the processes see it. Its leader may be gone: then any member tells.
pid_t inner_group(pid_t group) {
  if (group <= 0) return 0;
  const pid_t inner =
      os::innermost_id(os::read_or_empty(os::task_path(group, group, "status")), "NSpgid");
  return inner != 0 ? inner : group;
}

}  // namespace

bool describe_process_of_tree(pid_t pid, format::TreeRecord* ret, int* ret_exit_signal) {
  format::TreeRecord t{};
  const std::string status = os::read_or_empty(os::task_path(pid, pid, "status"));
  auto stat = os::read_stat(pid, pid);
  if (status.empty() || !stat) return false;
  t.pid = os::innermost_id(status, "NStgid");
  t.pgid = os::innermost_id(status, "NSpgid");
  t.sid = os::innermost_id(status, "NSsid");
  // A group or session of the outside of a namespace is 0 there.
  if (stat->pgid == getpgrp() || t.pgid == 0) t.flags |= format::kTreeOutsideGroup;
  if (stat->sid == getsid(0) || t.sid == 0) t.flags |= format::kTreeOutsideSession;
  t.terminal = -1;
  constexpr unsigned kSlaveMajor = 136;
  if (stat->sid == pid && stat->tty_major == kSlaveMajor) {
    t.terminal = static_cast<int32_t>(stat->tty_minor);
    t.foreground = inner_group(stat->foreground);
  }
  t.uid = static_cast<uint32_t>(strtoul(os::status_field(status, "Uid").c_str(), nullptr, 10));
  if (is_zombie(pid)) {
    t.flags |= format::kTreeZombie;
    t.status = stat->exit_code;
  }
  rawsys::str_copy(t.name, os::status_field(status, "Name").c_str(), sizeof(t.name));
  if (ret_exit_signal != nullptr) *ret_exit_signal = stat->exit_signal;
  *ret = t;
  return true;
}

}  // namespace cr::agent
