// SPDX-License-Identifier: MIT
// kind_inotify.cc - inotify instances: their watches, with the same numbers.
// Invariant: as kinds.h. A watch whose file is not found again by a path, or an instance with
// events that were not read, refuses the checkpoint.
// Context: N (agent).
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "agent/find_path.h"
#include "agent/kinds.h"

namespace cr::agent {
namespace {

constexpr unsigned long kSetNextWd = _IOW('I', 0, int32_t);  // INOTIFY_IOC_SETNEXTWD
constexpr int kMinorBits = 20;                               // of the kernel's own dev_t

bool parse(const std::string& line, format::InotifyWatch* ret, FileHandle* ret_handle) {
  unsigned long ino = 0;
  unsigned wd = 0, dev = 0, mask = 0, bytes = 0, type = 0;
  char hex[2 * FileHandle::kMostBytes + 1] = "";
  if (sscanf(line.c_str(), "inotify wd:%x ino:%lx sdev:%x mask:%x", &wd, &ino, &dev, &mask) != 4) {
    return false;
  }
  ret->wd = static_cast<int32_t>(wd);
  ret->mask = mask;
  ret->ino = ino;
  ret->dev = makedev(dev >> kMinorBits, dev & ((1u << kMinorBits) - 1));
  const size_t at = line.find("fhandle-bytes:");
  *ret_handle = {};
  if (at == std::string::npos ||
      sscanf(line.c_str() + at, "fhandle-bytes:%x fhandle-type:%x f_handle:%256s", &bytes, &type,
             hex) != 3 ||
      bytes > FileHandle::kMostBytes || strlen(hex) != 2 * size_t{bytes}) {
    return true;  // its file system has none
  }
  ret_handle->type = static_cast<int>(type);
  for (unsigned i = 0; i < bytes; i++) {
    const char byte[3] = {hex[2 * i], hex[2 * i + 1], 0};
    ret_handle->bytes.push_back(static_cast<char>(strtoul(byte, nullptr, 16)));
  }
  return true;
}

// Where the file may be, if a handle of it is of no use.
std::vector<std::string> likely_places(const Program& program) {
  std::vector<std::string> places;
  auto cwd = os::read_link(os::task_path(program.pid, program.tid, "cwd"));
  if (cwd) places.push_back(*cwd);
  for (const Descriptor& d : program.all) {
    if (d.link[0] != '/' || d.deleted) continue;
    places.push_back(S_ISDIR(d.st.st_mode) ? d.link : d.link.substr(0, d.link.find_last_of('/')));
  }
  return places;
}

Trouble find_watched(const Program& program, const Descriptor& d, const FileHandle& handle,
                     format::InotifyWatch& w) {
  const std::string path = find_path(w.dev, w.ino, handle, likely_places(program));
  struct stat st {};
  if (!path.empty() && lstat(path.c_str(), &st) == 0) {
    w.path = program.model.add_string(path);
    if (S_ISLNK(st.st_mode)) w.flags |= format::kWatchLink;
    return {};
  }
  return trouble(Errc::kUnsupported, ENOENT,
                 name_of(d) + ": no path was found of the file that watch " + std::to_string(w.wd) +
                     " is of (inode " + std::to_string(w.ino) + " of device " +
                     std::to_string(major(w.dev)) + ":" + std::to_string(minor(w.dev)) +
                     "): it may have been removed, or lie where only root can look for it; remove "
                     "the watch before the checkpoint, or run crrun as root");
}

Trouble describe_inotify(const Program& program, const Descriptor& d, format::FileRecord& f) {
  const os::Fd copy = program.copy_of(d.fd);
  int waiting = 0;
  if (!copy || ioctl(copy.get(), FIONREAD, &waiting) != 0) {
    return trouble(Errc::kUnsupported, errno, name_of(d) + ": it cannot be looked at");
  }
  if (waiting > 0) {
    return trouble(Errc::kUnsupported, 0,
                   name_of(d) + ": " + std::to_string(waiting) +
                       " bytes of inotify events were not read yet, and cannot be put back; "
                       "checkpoint when the program has read them");
  }
  std::vector<format::InotifyWatch> watches;
  const std::string& text = d.info.extra;
  for (size_t at = text.find("\ninotify wd:"); at != std::string::npos;
       at = text.find("\ninotify wd:", at + 1)) {
    format::InotifyWatch w{};
    FileHandle handle;
    if (!parse(text.substr(at + 1, text.find('\n', at + 1) - at - 1), &w, &handle)) {
      return trouble(Errc::kUnsupported, 0, name_of(d) + ": /proc does not tell what it watches");
    }
    Trouble bad = find_watched(program, d, handle, w);
    if (bad.bad()) return bad;
    watches.push_back(w);
  }
  std::ranges::sort(watches, {}, &format::InotifyWatch::wd);
  f.content = program.model.add_blob(watches.data(), watches.size() * sizeof(watches[0]));
  return {};
}

void make_inotify(const SavedFile& f, Recipe& recipe) {
  recipe.call(f.name, __NR_inotify_init1, {IN_CLOEXEC});
}

// Ascending, so that without that ioctl numbers without a gap come out right as well.
void furnish_inotify(const SavedFile& f, Recipes& recipes) {
  for (const format::InotifyWatch& w : f.image.states<format::InotifyWatch>(f.file.content)) {
    const std::string path = f.image.string(w.path);
    const std::string what = f.name + ": watch " + std::to_string(w.wd) + " of " + path;
    recipes.late.call(what, __NR_ioctl, {f.fd, kSetNextWd, w.wd}, format::kCallMayFail);
    const uint32_t mask = w.mask | ((w.flags & format::kWatchLink) != 0 ? IN_DONT_FOLLOW : 0u);
    recipes.late.call(what, __NR_inotify_add_watch,
                      {f.fd, recipes.late.data(path.c_str(), path.size() + 1), mask},
                      format::kCallReturns, w.wd);
  }
}

std::string why_not_inotify(const SavedFile& f) {
  for (const format::InotifyWatch& w : f.image.states<format::InotifyWatch>(f.file.content)) {
    const std::string path = f.image.string(w.path);
    struct stat st {};
    if (lstat(path.c_str(), &st) == 0 && st.st_ino == w.ino && st.st_dev == w.dev) continue;
    return f.name + ": " + path +
           ", which it watches, was removed or replaced since the checkpoint";
  }
  return "";
}

}  // namespace

const KindOfFile kInotifyKind = {
    .kind = format::kFileInotify,
    .link = "anon_inode:inotify",
    .describe = describe_inotify,
    .make = make_inotify,
    .furnish = furnish_inotify,
    .why_not = why_not_inotify,
};

}  // namespace cr::agent
