// SPDX-License-Identifier: MIT
// disk_model.cc - see disk_model.h. Invariant: as there. Context: N.
#include "tests/unit/store/disk_model.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace cr_test {

using cr::store::StorageStep;

constexpr uint64_t kSector = 512, kBlock = 4096;

std::string parent_of(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

// ------------------------------------------------------------------------------- recording -----

void Recorder::enter(const std::string& phase) {
  phase_ = phase;
  count_.clear();
  cr::store::observe_storage(this);
}

void Recorder::step(const StorageStep& s) {
  static const char* const kNames[] = {"create", "write", "truncate", "punch",  "drain",
                                       "sync",   "mkdir", "rename",   "remove", "sync directory"};
  RecordedStep r{s.kind, s.path, s.to == nullptr ? "" : *s.to, {}, s.off, s.bytes, "", now};
  if (s.kind == StorageStep::kWrite) {
    const auto* data = static_cast<const uint8_t*>(s.data);
    r.data.assign(data, data + s.bytes);
  }
  std::string name = s.path.substr(s.path.find_last_of('/') + 1);
  for (char& c : name) {
    if (c >= '0' && c <= '9') c = 'N';
  }
  if (name.starts_with("cr-power-")) name = "parent";
  r.label = phase_ + ": " + kNames[s.kind] + " " + name;
  r.label += " #" + std::to_string(++count_[r.label]);
  steps.push_back(std::move(r));
}

// -------------------------------------------------------------------------------- the disk -----

void Disk::add(Operation o, bool asynchronous) {
  if (loss_ == Loss::kWriter && !asynchronous) {
    apply(o, durable_, nullptr);
  } else {
    open_.push_back(o);
  }
}

void Disk::issue(const RecordedStep& s) {
  const bool is_new = s.kind == StorageStep::kCreate || s.kind == StorageStep::kMakeDirectory;
  if (is_new) {
    live_names_[s.path] = ++inodes_;
    durable_.is_directory[inodes_] = s.kind == StorageStep::kMakeDirectory;
  }
  const auto found = live_names_.find(s.path);
  const int inode = found == live_names_.end() ? 0 : found->second;
  uint64_t& size = live_bytes_[inode];
  switch (s.kind) {
    case StorageStep::kCreate:
    case StorageStep::kMakeDirectory:
      add({Operation::kLink, inode, &s, 0, 0}, false);
      break;
    case StorageStep::kWrite:
      if (s.off + s.bytes > size) {
        size = s.off + s.bytes;
        add({Operation::kGrow, inode, &s, size, 0}, true);
      }
      add({Operation::kData, inode, &s, s.off, s.bytes}, true);
      break;
    case StorageStep::kTruncate:
      if (size != s.off) add({Operation::kResize, inode, &s, s.off, 0}, false);
      size = s.off;
      break;
    case StorageStep::kPunch:
      add({Operation::kZero, inode, &s, s.off, s.bytes}, false);
      break;
    case StorageStep::kRename:
      add({Operation::kRename, inode, &s, 0, 0}, false);
      live_names_.erase(s.path);
      live_names_[s.to] = inode;
      break;
    case StorageStep::kRemove:
      add({Operation::kUnlink, inode, &s, 0, 0}, false);
      live_names_.erase(s.path);
      break;
    case StorageStep::kDrain:
      if (loss_ == Loss::kWriter)
        settle([&](const Operation& o) { return o.inode == inode && o.kind < Operation::kLink; });
      break;
    case StorageStep::kSync:
      settle([&](const Operation& o) { return o.inode == inode && o.kind < Operation::kLink; });
      break;
    case StorageStep::kSyncDirectory:
      settle([&](const Operation& o) {
        return o.kind >= Operation::kLink &&
               (parent_of(o.step->path) == s.path ||
                (o.kind == Operation::kRename && parent_of(o.step->to) == s.path));
      });
      break;
  }
}

void Disk::settle(const std::function<bool(const Operation&)>& covered) {
  std::vector<Operation> left;
  for (const Operation& o : open_) {
    if (covered(o)) {
      apply(o, durable_, nullptr);
    } else {
      left.push_back(o);
    }
  }
  open_ = std::move(left);
}

// tear: of a write only some sectors.
void Disk::apply(const Operation& o, State& state, Random* tear) {
  std::vector<uint8_t>& file = state.files[o.inode];
  const std::string& path = o.step->path;
  switch (o.kind) {
    case Operation::kData:
      for (uint64_t at = 0; at < o.bytes; at += tear != nullptr ? kSector : o.bytes) {
        if (tear != nullptr && tear->one_in(2)) continue;
        const uint64_t bytes = std::min(tear != nullptr ? kSector : o.bytes, o.bytes - at);
        if (o.off + at >= file.size()) break;
        memcpy(file.data() + o.off + at, o.step->data.data() + at,
               std::min(bytes, file.size() - o.off - at));
      }
      break;
    case Operation::kGrow:
      if (file.size() < o.off) file.resize(o.off);
      break;
    case Operation::kResize:
      file.resize(o.off);
      break;
    case Operation::kZero:
      if (o.off < file.size()) {
        memset(file.data() + o.off, 0, std::min(o.bytes, file.size() - o.off));
      }
      break;
    case Operation::kLink:
      state.names[path] = o.inode;
      break;
    case Operation::kRename:
      state.names[o.step->to] = o.inode;
      [[fallthrough]];
    case Operation::kUnlink: {
      const auto found = state.names.find(path);
      if (found != state.names.end() && found->second == o.inode) state.names.erase(found);
      break;
    }
  }
}

bool Disk::visit(const Effort& effort, Random& random,
                 const std::function<bool(const State&)>& check) {
  const size_t n = open_.size();
  std::vector<Fate> fates(n);
  const auto look = [&]() {
    State state = durable_;
    for (size_t i = 0; i < n; i++) {
      if (fates[i] != Fate::kLost)
        apply(open_[i], state, fates[i] == Fate::kTorn ? &random : nullptr);
    }
    return check(state);
  };
  if (n < effort.all_subsets_below) {
    for (size_t set = 0; set < size_t{1} << n; set++) {
      for (size_t i = 0; i < n; i++) fates[i] = (set >> i & 1) != 0 ? Fate::kDone : Fate::kLost;
      if (!look()) return false;
    }
  } else {
    for (const Fate most : {Fate::kDone, Fate::kLost}) {
      std::fill(fates.begin(), fates.end(), most);
      if (!look()) return false;
      for (size_t k = 0; k < std::min(n, effort.singles / 2); k++) {
        // The newest and the oldest are never left out.
        const size_t one = k < 2 ? k * (n - 1) : n <= effort.singles / 2 ? k - 1 : random.below(n);
        fates[one] = most == Fate::kDone ? Fate::kLost : Fate::kDone;
        if (!look()) return false;
        fates[one] = most;
      }
    }
  }
  for (size_t k = 0; n > 0 && k < effort.samples; k++) {
    const uint64_t lost = random.below(5);
    for (Fate& f : fates) {
      f = random.below(5) < lost           ? Fate::kLost
          : k % 2 == 0 && random.one_in(3) ? Fate::kTorn
                                           : Fate::kDone;
    }
    if (!look()) return false;
  }
  return true;
}

// ------------------------------------------------------------------------ a real directory -----

void Shadow::become(const Disk::State& state) {
  std::map<std::string, bool> directories;
  std::map<std::string, const std::vector<uint8_t>*> files;
  for (const auto& [path, inode] : state.names) {  // parents come before what is in them
    const std::string parent = parent_of(path);
    if (parent != from_ && !directories.count(parent)) continue;
    if (state.is_directory.at(inode)) {
      directories[path] = true;
    } else {
      static const std::vector<uint8_t> kEmpty;
      const auto found = state.files.find(inode);
      files[path] = found == state.files.end() ? &kEmpty : &found->second;
    }
  }
  const auto real = [&](const std::string& path) { return to_ + path.substr(from_.size()); };
  for (auto it = files_.begin(); it != files_.end();) {
    if (files.count(it->first)) {
      ++it;
      continue;
    }
    unlink(real(it->first).c_str());
    it = files_.erase(it);
  }
  for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
    if (!directories.count(it->first)) rmdir(real(it->first).c_str());
  }
  for (const auto& [path, yes] : directories) mkdir(real(path).c_str(), 0700);
  directories_ = directories;
  for (const auto& [path, content] : files) {
    const bool fresh = !files_.count(path);
    std::vector<uint8_t>& old = files_[path];
    const int fd = open(real(path).c_str(), O_WRONLY | O_CREAT, 0600);
    cr_assert_geq(fd, 0, "%s", path.c_str());
    if (fresh || old.size() != content->size()) {
      cr_assert_eq(ftruncate(fd, static_cast<off_t>(content->size())), 0);
      old.resize(content->size());
    }
    for (size_t at = 0; at < content->size(); at += kBlock) {
      const size_t bytes = std::min<size_t>(kBlock, content->size() - at);
      if (memcmp(old.data() + at, content->data() + at, bytes) == 0) continue;
      cr_assert_eq(pwrite(fd, content->data() + at, bytes, static_cast<off_t>(at)),
                   static_cast<ssize_t>(bytes));
      memcpy(old.data() + at, content->data() + at, bytes);
    }
    close(fd);
  }
}

}  // namespace cr_test
