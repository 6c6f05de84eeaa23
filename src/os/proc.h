// SPDX-License-Identifier: MIT
// proc.h - reading /proc of another process.
// Invariant: a line that cannot be parsed is an Error, never skipped. Context: N.
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/base.h"
#include "os/fd.h"

namespace cr::os {

struct MapEntry {
  uint64_t start = 0, end = 0;
  int prot = 0;  // PROT_*
  bool shared = false;
  uint64_t offset = 0;
  uint64_t dev = 0, ino = 0;  // dev as makedev(3) makes it
  std::string name;           // as printed, " (deleted)" removed
  bool deleted = false;
  // from smaps, where read
  uint64_t rss_bytes = 0, swap_bytes = 0;
  std::string vm_flags;
};

// /proc/<task>/maps or smaps text.
Result<std::vector<MapEntry>> parse_maps(const std::string& text);

// "Name:" line of a status-like file, trimmed; empty if absent.
std::string status_field(const std::string& status, const char* name);
// Fields such as NSpid and NStgid have an id for each pid namespace; the last one is what the
// process itself sees. 0 if absent.
pid_t innermost_id(const std::string& status, const char* name);
// Somebody has sent it SIGKILL: it ends, or is a zombie.
bool is_killed(const std::string& status);
// The process is in a pid namespace below ours.
bool in_pid_namespace(const std::string& status);

Result<std::vector<pid_t>> list_tasks(pid_t pid);
Result<std::vector<int>> list_fds(pid_t pid, pid_t tid);
// A thread of the process that lives, the first one if that does. Through one that has ended
// neither memory nor descriptors are seen.
pid_t living_task(pid_t pid);

// /proc/<pid>/task/<tid>/<what>: through a thread that lives, because the main thread may have
// ended, and then shows nothing.
std::string task_path(pid_t pid, pid_t tid, const char* what);
// The file's content; "" if it cannot be read.
std::string read_or_empty(const std::string& path);
// The thread's id as it sees it itself; tid if that cannot be read.
pid_t inner_tid(pid_t pid, pid_t tid);

struct FdInfo {
  uint64_t position = 0;
  uint64_t flags = 0;  // O_* incl. O_CLOEXEC
  std::string extra;   // the rest of the text
};
Result<FdInfo> read_fdinfo(pid_t pid, pid_t tid, int fd);

// /proc/<pid>/stat fields behind the name: state, parent, group, session, terminal, start time.
struct Stat {
  char state = '?';
  pid_t ppid = 0, pgid = 0, sid = 0;
  uint32_t tty_major = 0, tty_minor = 0;  // of the controlling terminal
  pid_t foreground = 0;                   // group of that, -1 without one
  uint64_t start_code = 0, end_code = 0, start_stack = 0;
  uint64_t start_data = 0, end_data = 0, start_brk = 0, arg_start = 0, arg_end = 0, env_start = 0,
           env_end = 0;
  int nice = 0;
  uint64_t start_time = 0;
  int exit_signal = 0;  // that its parent gets at its end
  int exit_code = 0;    // as wait(2) says it, once it has ended
};
Result<Stat> read_stat(pid_t pid, pid_t tid);

// The least memory limit of the cgroups in `text` (/proc/self/cgroup) and of those above them;
// `root` is where they are mounted. ~0: none. ret_group: the limited one.
uint64_t memory_limit(const std::string& text, const std::string& root, std::string* ret_group);

}  // namespace cr::os
