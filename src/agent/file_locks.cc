// SPDX-License-Identifier: MIT
// file_locks.cc - see file_locks.h. Invariant: as there. Context: N (agent).
#include "agent/file_locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "os/proc.h"

namespace cr::agent {
namespace {

constexpr uint64_t kToEnd = 0;  // LockRecord.bytes

const char* const kWords[] = {"", "FLOCK", "POSIX", "OFDLCK", "LEASE"};  // by LockKind
const char* const kNames[] = {"", "flock", "record lock", "open file's record lock", "lease"};

// A line of fdinfo or of /proc/locks: "1: FLOCK  ADVISORY  WRITE 123 fe:00:4711 0 EOF".
struct Line {
  format::LockRecord lock{};  // its kind is 0 if it is another's than of those above
  std::string kind, state;
  int pid = 0;
  uint64_t dev = 0, ino = 0;
  bool waits = false;
};

bool parse(const std::string& text, Line* ret) {
  char kind[16] = "", state[16] = "", type[16] = "", end[24] = "";
  unsigned ma = 0, mi = 0;
  unsigned long ino = 0, start = 0;
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return false;
  std::string rest = text.substr(colon + 1);
  ret->waits = rest.find("->") != std::string::npos;
  if (ret->waits) rest = rest.substr(rest.find("->") + 2);
  if (sscanf(rest.c_str(), "%15s %15s %15s %d %x:%x:%lu %lu %23s", kind, state, type, &ret->pid,
             &ma, &mi, &ino, &start, end) != 9) {
    return false;
  }
  ret->kind = kind;
  ret->state = state;
  ret->dev = makedev(ma, mi);
  ret->ino = ino;
  for (uint32_t k = format::kLockFlock; k <= format::kLockLease; k++) {
    if (ret->kind == kWords[k]) ret->lock.kind = k;
  }
  ret->lock.type = strcmp(type, "READ") == 0 ? F_RDLCK : F_WRLCK;
  ret->lock.start = start;
  ret->lock.bytes = strcmp(end, "EOF") == 0 ? kToEnd : strtoull(end, nullptr, 10) - start + 1;
  return true;
}

// What follows "lock:" in fdinfo.
std::vector<std::string> lock_lines(const std::string& fdinfo) {
  static const std::string kKey = "\nlock:";
  std::vector<std::string> lines;
  for (size_t at = fdinfo.find(kKey); at != std::string::npos; at = fdinfo.find(kKey, at + 1)) {
    const size_t from = at + kKey.size();
    lines.push_back(fdinfo.substr(from, fdinfo.find('\n', from) - from));
  }
  return lines;
}

std::string range_of(const format::LockRecord& l) {
  if (l.start == 0 && l.bytes == kToEnd) return "";
  return " on bytes from " + std::to_string(l.start) +
         (l.bytes == kToEnd ? "" : " to " + std::to_string(l.start + l.bytes - 1));
}

std::string describe(const format::ImageView& image, const format::LockRecord& l) {
  return saved_file(image, l.file).name + ": its " + kNames[l.kind] + range_of(l);
}

bool conflict(const format::LockRecord& want, const Line& has) {
  const bool records = want.kind == format::kLockPosix || want.kind == format::kLockOfd;
  const bool their_records =
      has.lock.kind == format::kLockPosix || has.lock.kind == format::kLockOfd;
  if (records ? !their_records : want.kind != has.lock.kind) return false;
  if (want.type == F_RDLCK && has.lock.type == F_RDLCK) return false;
  const auto end = [](const format::LockRecord& l) {
    return l.bytes == kToEnd ? ~uint64_t{0} : l.start + l.bytes;
  };
  return want.start < end(has.lock) && has.lock.start < end(want);
}

}  // namespace

Trouble describe_locks(const Descriptor& d, uint32_t file, bool only_of_process,
                       store::Model& model) {
  for (const std::string& text : lock_lines(d.info.extra)) {
    Line line;
    if (!parse(text, &line) || line.lock.kind == 0) {
      return refuse(d, "a lock of an unknown kind (" + text + ")",
                    "release it before the checkpoint");
    }
    if (line.lock.kind == format::kLockLease && line.state != "ACTIVE") {
      return refuse(d, "a lease that another process waits for",
                    "give it up before the checkpoint");
    }
    if (only_of_process && line.lock.kind != format::kLockPosix) continue;
    line.lock.file = file;
    model.locks.push_back(line.lock);
  }
  return {};
}

std::string why_not_locked(const format::ImageView& image, pid_t self) {
  if (image.locks.empty()) return "";
  const std::string text = os::read_or_empty("/proc/locks");
  for (const format::LockRecord& want : image.locks) {
    struct stat st {};
    const format::FileRecord& f = image.files[want.file];
    if (stat(image.string(f.path), &st) != 0) continue;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      Line has;
      if (parse(text.substr(at, end - at), &has) && !has.waits && has.ino == st.st_ino &&
          has.dev == st.st_dev && (self == 0 || (has.pid != self && has.pid > 0)) &&
          conflict(want, has)) {
        return describe(image, want) + " is held by " +
               (has.pid > 0 ? "process " + std::to_string(has.pid) : "another process") +
               " now; end that, then try again";
      }
      at = end + 1;
    }
  }
  return "";
}

void take_locks(const format::ImageView& image, Recipe& recipe) {
  for (const format::LockRecord& l : image.locks) {
    const std::string what =
        describe(image, l) + " cannot be taken (does another process hold it?)";
    const int fd = saved_file(image, l.file).fd;
    struct flock range {};
    range.l_type = static_cast<short>(l.type);
    range.l_start = static_cast<off_t>(l.start);
    range.l_len = static_cast<off_t>(l.bytes);
    switch (l.kind) {
      case format::kLockFlock:
        recipe.call(what, __NR_flock, {fd, (l.type == F_RDLCK ? LOCK_SH : LOCK_EX) | LOCK_NB});
        break;
      case format::kLockLease:
        recipe.call(what, __NR_fcntl, {fd, F_SETLEASE, l.type});
        break;
      default:
        recipe.call(what, __NR_fcntl,
                    {fd, l.kind == format::kLockOfd ? F_OFD_SETLK : F_SETLK,
                     recipe.data(&range, sizeof(range))});
    }
  }
}

bool has_locks(const std::string& fdinfo, const format::ImageView& image, uint32_t file) {
  std::vector<format::LockRecord> now;
  for (const std::string& text : lock_lines(fdinfo)) {
    Line line;
    if (!parse(text, &line) || line.lock.kind == 0) return false;
    line.lock.file = file;
    now.push_back(line.lock);
  }
  size_t then = 0;
  for (const format::LockRecord& l : image.locks) {
    if (l.file != file) continue;
    then++;
    const auto same = [&](const format::LockRecord& n) { return memcmp(&n, &l, sizeof(l)) == 0; };
    if (std::ranges::none_of(now, same)) return false;
  }
  return then == now.size();
}

bool any_lock(const format::ImageView& image, uint32_t file) {
  return std::ranges::any_of(image.locks, [&](const auto& l) { return l.file == file; });
}

}  // namespace cr::agent
