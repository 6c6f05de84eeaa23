// SPDX-License-Identifier: MIT
// find_path.cc - see find_path.h. Invariant: as there. Context: N (agent).
#include "agent/find_path.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "os/fd.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

constexpr size_t kMostEntries = 50000;  // of directories, in one search
constexpr size_t kMostRemembered = 1024;

using File = std::pair<uint64_t, uint64_t>;  // device, inode

bool is(const std::string& path, const File& f) {
  struct stat st {};
  return lstat(path.c_str(), &st) == 0 && st.st_dev == f.first && st.st_ino == f.second;
}

// Where file systems of this device are mounted.
std::vector<std::string> mount_points(uint64_t dev) {
  std::vector<std::string> points;
  const std::string text = os::read_or_empty("/proc/self/mountinfo");
  const std::string number = std::to_string(major(dev)) + ":" + std::to_string(minor(dev));
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    char device[32] = "", point[1024] = "";
    if (sscanf(text.substr(at, end - at).c_str(), "%*d %*d %31s %*s %1023s", device, point) == 2 &&
        number == device) {
      points.emplace_back(point);
    }
    at = end + 1;
  }
  return points;
}

std::string by_handle(const File& f, const FileHandle& handle) {
  if (handle.bytes.empty()) return "";
  std::string room(sizeof(file_handle) + handle.bytes.size(), '\0');
  auto* h = reinterpret_cast<file_handle*>(room.data());
  h->handle_bytes = static_cast<unsigned>(handle.bytes.size());
  h->handle_type = handle.type;
  memcpy(h->f_handle, handle.bytes.data(), handle.bytes.size());
  for (const std::string& point : mount_points(f.first)) {
    const os::Fd mount(open(point.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    const os::Fd file(mount ? open_by_handle_at(mount.get(), h, O_PATH | O_CLOEXEC) : -1);
    if (!file) continue;
    auto path = os::read_link("/proc/self/fd/" + std::to_string(file.get()));
    if (path && is(*path, f)) return *path;
  }
  return "";
}

// Breadth first, one device, no directory twice.
class Search {
 public:
  explicit Search(const File& wanted) : wanted_(wanted) {}
  std::string below(const std::string& top) {
    std::vector<std::string> level = {top};
    while (!level.empty() && looked_at_ < kMostEntries) {
      std::vector<std::string> next;
      for (const std::string& dir : level) {
        std::string found = look_into(dir, next);
        if (!found.empty()) return found;
      }
      level = std::move(next);
    }
    return "";
  }

 private:
  std::string look_into(const std::string& dir, std::vector<std::string>& next) {
    struct stat st {};
    if (stat(dir.c_str(), &st) != 0 || st.st_dev != wanted_.first ||
        !seen_.insert(st.st_ino).second) {
      return "";
    }
    if (st.st_ino == wanted_.second) return dir;
    DIR* d = opendir(dir.c_str());
    if (d == nullptr) return "";
    std::string found;
    while (const dirent* e = readdir(d)) {
      if (++looked_at_ > kMostEntries) break;
      if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
      const std::string path = (dir == "/" ? "" : dir) + "/" + e->d_name;
      if (e->d_ino == wanted_.second && is(path, wanted_)) {
        found = path;
        break;
      }
      if (e->d_type == DT_DIR) next.push_back(path);
    }
    closedir(d);
    return found;
  }

  const File wanted_;
  std::set<uint64_t> seen_;
  size_t looked_at_ = 0;
};

std::string by_search(const File& f, const std::vector<std::string>& places) {
  Search search(f);
  for (std::string place : places) {
    for (; !place.empty(); place.resize(place.find_last_of('/'))) {
      if (is(place, f)) return place;
    }
  }
  if (is("/", f)) return "/";
  std::vector<std::string> tops = places;
  tops.emplace_back("/tmp");
  for (const std::string& point : mount_points(f.first)) tops.push_back(point);
  for (const std::string& top : tops) {
    std::string found = search.below(top);
    if (!found.empty()) return found;
  }
  return "";
}

}  // namespace

std::string find_path(uint64_t dev, uint64_t ino, const FileHandle& handle,
                      const std::vector<std::string>& places) {
  static std::map<File, std::string> remembered;
  const File f{dev, ino};
  const auto last = remembered.find(f);
  if (last != remembered.end() && is(last->second, f)) return last->second;
  std::string path = by_handle(f, handle);
  if (path.empty()) path = by_search(f, places);
  if (path.empty()) return path;
  if (remembered.size() >= kMostRemembered) remembered.clear();
  remembered[f] = path;
  return path;
}

}  // namespace cr::agent
