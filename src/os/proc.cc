// SPDX-License-Identifier: MIT
// proc.cc - see proc.h. Invariant: as there. Context: N.
#include "os/proc.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <algorithm>

namespace cr::os {
namespace {

bool parse_map_line(const std::string& line, MapEntry* ret) {
  char perms[5] = "";
  unsigned long long start, end, offset, ino;
  unsigned major_no, minor_no;
  int name_at = 0;
  if (sscanf(line.c_str(), "%llx-%llx %4s %llx %x:%x %llu %n", &start, &end, perms, &offset,
             &major_no, &minor_no, &ino, &name_at) < 7) {
    return false;
  }
  MapEntry e;
  e.start = start;
  e.end = end;
  e.prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
           (perms[2] == 'x' ? PROT_EXEC : 0);
  e.shared = perms[3] == 's';
  e.offset = offset;
  e.dev = makedev(major_no, minor_no);
  e.ino = ino;
  if (name_at > 0) e.name = line.substr(static_cast<size_t>(name_at));
  static const std::string kDeleted = " (deleted)";
  if (e.name.size() > kDeleted.size() && e.name.ends_with(kDeleted)) {
    e.deleted = true;
    e.name.resize(e.name.size() - kDeleted.size());
  }
  // The kernel writes a newline in a name as \012.
  for (size_t i; (i = e.name.find("\\012")) != std::string::npos;) e.name.replace(i, 4, "\n");
  *ret = std::move(e);
  return true;
}

bool is_range_line(const std::string& line) {
  const size_t dash = line.find('-');
  if (dash == std::string::npos || dash == 0) return false;
  for (size_t i = 0; i < dash; i++) {
    if (strchr("0123456789abcdef", line[i]) == nullptr) return false;
  }
  return true;
}

}  // namespace

std::string task_path(pid_t pid, pid_t tid, const char* what) {
  return "/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/" + what;
}

std::string read_or_empty(const std::string& path) {
  auto r = read_file(path);
  return r ? *r : "";
}

Result<std::vector<MapEntry>> parse_maps(const std::string& text) {
  std::vector<MapEntry> all;
  size_t at = 0;
  while (at < text.size()) {
    size_t nl = text.find('\n', at);
    if (nl == std::string::npos) nl = text.size();
    const std::string line = text.substr(at, nl - at);
    at = nl + 1;
    if (is_range_line(line)) {
      MapEntry e;
      if (!parse_map_line(line, &e)) return Error{Errc::kDamaged, 0, "parsing /proc maps"};
      all.push_back(std::move(e));
    } else if (!all.empty()) {
      unsigned long long kb;
      if (sscanf(line.c_str(), "Rss: %llu kB", &kb) == 1) all.back().rss_bytes = kb << 10;
      if (sscanf(line.c_str(), "Swap: %llu kB", &kb) == 1) all.back().swap_bytes = kb << 10;
      if (line.starts_with("VmFlags:")) all.back().vm_flags = line.substr(8) + " ";
    }
  }
  return all;
}

std::string status_field(const std::string& status, const char* name) {
  const std::string key = std::string(name) + ":";
  size_t at = 0;
  while (!std::string_view(status).substr(at).starts_with(key)) {
    at = status.find('\n', at);
    if (at++ == std::string::npos) return "";
  }
  size_t from = at + key.size();
  const size_t end = status.find('\n', from);
  while (from < status.size() && (status[from] == ' ' || status[from] == '\t')) from++;
  return status.substr(from, end == std::string::npos ? end : end - from);
}

pid_t innermost_id(const std::string& status, const char* name) {
  const std::string ids = status_field(status, name);
  return static_cast<pid_t>(strtol(ids.c_str() + (ids.find_last_of(" \t") + 1), nullptr, 10));
}

bool is_killed(const std::string& status) {
  const uint64_t pending = strtoull(status_field(status, "ShdPnd").c_str(), nullptr, 16);
  return (pending & (uint64_t{1} << (SIGKILL - 1))) != 0;
}

bool in_pid_namespace(const std::string& status) {
  return status_field(status, "NSpid").find_first_of(" \t") != std::string::npos;
}

pid_t inner_tid(pid_t pid, pid_t tid) {
  const pid_t id = innermost_id(read_or_empty(task_path(pid, tid, "status")), "NSpid");
  return id != 0 ? id : tid;
}

pid_t living_task(pid_t pid) {
  const auto lives = [pid](pid_t tid) {
    const auto stat = read_stat(pid, tid);
    return stat && stat->state != 'Z' && stat->state != 'X';
  };
  if (lives(pid)) return pid;
  const auto tasks = list_tasks(pid);
  for (const pid_t tid : tasks ? *tasks : std::vector<pid_t>()) {
    if (tid != pid && lives(tid)) return tid;
  }
  return pid;
}

namespace {
Result<std::vector<int>> list_numbers(const std::string& path) {
  DIR* d = opendir(path.c_str());
  if (d == nullptr) return Error{Errc::kSystem, errno, "opening /proc directory"};
  std::vector<int> all;
  while (const dirent* e = readdir(d)) {
    if (e->d_name[0] >= '0' && e->d_name[0] <= '9') all.push_back(atoi(e->d_name));
  }
  closedir(d);
  return all;
}
}  // namespace

Result<std::vector<pid_t>> list_tasks(pid_t pid) {
  return list_numbers("/proc/" + std::to_string(pid) + "/task");
}

Result<std::vector<int>> list_fds(pid_t pid, pid_t tid) {
  return list_numbers(task_path(pid, tid, "fd"));
}

Result<FdInfo> read_fdinfo(pid_t pid, pid_t tid, int fd) {
  CR_TRY(const std::string text, read_file(task_path(pid, tid, "fdinfo/") + std::to_string(fd)));
  FdInfo info;
  info.position = strtoull(status_field(text, "pos").c_str(), nullptr, 10);
  info.flags = strtoull(status_field(text, "flags").c_str(), nullptr, 8);
  info.extra = text;
  return info;
}

Result<Stat> read_stat(pid_t pid, pid_t tid) {
  CR_TRY(const std::string text, read_file(task_path(pid, tid, "stat")));
  const size_t paren = text.rfind(')');
  if (paren == std::string::npos) return Error{Errc::kDamaged, 0, "parsing /proc stat"};
  std::vector<std::string> f;  // f[0] is field 3, the state
  size_t at = paren + 2;
  while (at < text.size()) {
    size_t sp = text.find_first_of(" \n", at);
    if (sp == std::string::npos) sp = text.size();
    f.push_back(text.substr(at, sp - at));
    at = sp + 1;
  }
  if (f.size() < 50 /* up to field 52, exit_code */)
    return Error{Errc::kDamaged, 0, "parsing /proc stat"};
  auto number = [&](int field) {
    return strtoull(f[static_cast<size_t>(field - 3)].c_str(), nullptr, 10);
  };
  Stat s;
  s.state = f[0][0];
  s.ppid = static_cast<pid_t>(number(4));
  s.pgid = static_cast<pid_t>(number(5));
  s.sid = static_cast<pid_t>(number(6));
  const auto tty = static_cast<uint32_t>(number(7));
  s.tty_major = tty >> 8 & 0xfff;
  s.tty_minor = (tty & 0xff) | (tty >> 12 & 0xfff00);
  s.foreground = static_cast<pid_t>(strtol(f[8 - 3].c_str(), nullptr, 10));
  s.nice = atoi(f[19 - 3].c_str());
  s.start_time = number(22);
  s.start_code = number(26);
  s.end_code = number(27);
  s.start_stack = number(28);
  s.exit_signal = atoi(f[38 - 3].c_str());
  s.start_data = number(45);
  s.end_data = number(46);
  s.start_brk = number(47);
  s.arg_start = number(48);
  s.arg_end = number(49);
  s.env_start = number(50);
  s.env_end = number(51);
  s.exit_code = atoi(f[52 - 3].c_str());
  return s;
}

uint64_t memory_limit(const std::string& text, const std::string& root, std::string* ret_group) {
  uint64_t least = ~uint64_t{0};
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",memory,") == std::string::npos) continue;
    const std::string mount = root + (unified ? "" : "/memory");
    std::string group = line.substr(second + 1);
    for (;;) {
      auto limit = read_file(mount + group + (unified ? "/memory.max" : "/memory.limit_in_bytes"));
      if (limit && !limit->empty() && isdigit(static_cast<unsigned char>((*limit)[0])) != 0) {
        const uint64_t bytes = strtoull(limit->c_str(), nullptr, 10);
        if (bytes < least) {
          least = bytes;
          *ret_group = group.empty() ? "/" : group;
        }
      }
      const size_t slash = group.find_last_of('/');
      if (slash == std::string::npos) break;
      group.erase(slash);
    }
  }
  return least;
}

}  // namespace cr::os
