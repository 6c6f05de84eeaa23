// SPDX-License-Identifier: MIT
// describe_objects.cc - see describe_objects.h. Invariant: as there. Context: N (agent).
#include "agent/describe_objects.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>

#include "agent/plugins.h"
#include "os/fd.h"

namespace cr::agent {
namespace {

Trouble refuse(const os::MapEntry& m, const char* why) {
  return trouble(Errc::kUnsupported, 0, name_of_mapping(m) + ": " + why);
}

constexpr char kSecretName[] = "/secretmem";
constexpr char kHugeWords[] =
    "shared memory of huge pages (MFD_HUGETLB, SHM_HUGETLB, MAP_HUGETLB) cannot be saved yet; ";
constexpr char kSecretWords[] =
    "memory of memfd_secret() cannot be saved: nobody but the program can read it; ";

bool is_sysv(const std::string& name) { return name.starts_with("/SYSV"); }
bool is_memfd(const std::string& name) { return name.starts_with("/memfd:"); }

// The device of all memfds and System V segments that do not consist of huge pages.
uint64_t shared_memory_device() {
  static const uint64_t device = [] {
    auto fd = os::make_memfd("cr-device");
    struct stat st {};
    return fd && fstat(fd->get(), &st) == 0 ? static_cast<uint64_t>(st.st_dev) : ~uint64_t{0};
  }();
  return device;
}

// Mapped files that are no memory and no data: registers of devices, huge pages.
const char* why_not_file(const char* path) {
  constexpr long kHugetlbfs = 0x958458f6, kSysfs = 0x62656572, kDebugfs = 0x64626720;
  struct statfs fs {};
  if (statfs(path, &fs) != 0) return nullptr;
  if (fs.f_type == kHugetlbfs) return "a file of huge pages cannot be saved yet; unmap it";
  if (fs.f_type == kSysfs || fs.f_type == kDebugfs) {
    return "device memory cannot be saved; unmap it before the checkpoint";
  }
  return nullptr;
}

// A file that was made under one name and then got another, as sem_open() does it: the mapping
// shows the first, which is gone.
std::string other_name(const os::MapEntry& m) {
  const std::string dir = m.name.substr(0, m.name.find_last_of('/') + 1);
  DIR* d = opendir(dir.c_str());
  if (d == nullptr) return "";
  std::string found;
  while (const dirent* e = readdir(d)) {
    if (e->d_ino == m.ino) found = dir + e->d_name;
  }
  closedir(d);
  struct stat st;
  const bool good =
      !found.empty() && lstat(found.c_str(), &st) == 0 && S_ISREG(st.st_mode) && st.st_ino == m.ino;
  return good ? found : "";
}

class ObjectDescriber {
 public:
  ObjectDescriber(const std::vector<os::MapEntry>& maps, OpenFiles& open, store::Model& model)
      : maps_(maps), open_(open), model_(model) {}
  Trouble run(std::vector<int>* ret_objects);

 private:
  Trouble look_at_shared(const os::MapEntry& m);
  Trouble look_at_named(const os::MapEntry& m);
  void look_at_private(const os::MapEntry& m);
  bool maps_twice(const os::MapEntry& m) const;
  void add(const ObjectKey& key, format::ObjectKind kind);

  const std::vector<os::MapEntry>& maps_;
  OpenFiles& open_;
  store::Model& model_;
};

int add_object(store::Model& model, const ObjectKey& key, format::ObjectKind kind) {
  format::ObjectRecord o{};
  o.kind = kind;
  o.dev = key.dev;
  o.ino = key.ino;
  o.name = model.add_string(key.name);
  if (kind != format::kObjectNamed || key.name.starts_with("/dev/shm/")) {
    o.flags |= format::kObjectWhole;  // it may be nowhere but in memory
  }
  model.objects.push_back(o);
  return static_cast<int>(model.objects.size()) - 1;
}

void ObjectDescriber::add(const ObjectKey& key, format::ObjectKind kind) {
  if (find_object(model_, key) == kNoObject) add_object(model_, key, kind);
}

Trouble ObjectDescriber::look_at_named(const os::MapEntry& m) {
  struct stat st;
  const bool there = stat(m.name.c_str(), &st) == 0 && st.st_ino == m.ino;
  const bool device = there && (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode));
  const bool posix = m.name.starts_with("/dev/shm/");
  if (device || (m.name.starts_with("/dev/") && !posix)) {
    return refuse(m, "device memory cannot be saved; unmap it before the checkpoint");
  }
  if (!there || !S_ISREG(st.st_mode)) {
    return refuse(m, "a shared mapping of a file that was replaced cannot be saved; unmap it");
  }
  const char* why = why_not_file(m.name.c_str());
  if (why != nullptr) return refuse(m, why);
  if ((m.prot & PROT_WRITE) != 0) add(key_of(m), format::kObjectNamed);
  return {};
}

bool ObjectDescriber::maps_twice(const os::MapEntry& m) const {
  return std::ranges::any_of(maps_, [&](const os::MapEntry& o) {
    return o.ino == m.ino && o.dev == m.dev && o.shared && o.start != m.start &&
           o.offset == m.offset;
  });
}

Trouble ObjectDescriber::look_at_shared(const os::MapEntry& m) {
  const bool inode = m.name.starts_with("anon_inode:");
  if (!inode && !may_be_object(m)) return {};  // for others to say what it is
  if (is_shared_anonymous(m)) {
    if (maps_twice(m) || open_.is_among_processes(m.ino)) add(key_of(m), format::kObjectAnon);
    return {};
  }
  if (inode) return refuse(m, "device memory cannot be saved; unmap it before the checkpoint");
  if (m.name == kSecretName) return refuse(m, (std::string(kSecretWords) + "unmap it").c_str());
  const bool memory = is_memfd(m.name) || is_sysv(m.name);
  if (m.name == "/anon_hugepage" || (m.deleted && memory && m.dev != shared_memory_device())) {
    return refuse(m, (std::string(kHugeWords) + "unmap it").c_str());
  }
  if (!m.deleted) return look_at_named(m);
  ObjectKey key = key_of(m);
  if (find_object(model_, key) != kNoObject) return {};
  if (memory) {
    add(key, key.sysv ? format::kObjectSysv : format::kObjectMemfd);
    return {};
  }
  const std::string other = other_name(m);
  if (!other.empty()) key.name = other;
  add(key, other.empty() ? format::kObjectUnnamed : format::kObjectNamed);
  return {};
}

// A file without a name: if it can be had otherwise than by this mapping, whose pages may be the
// process's own. Else it is for describe_memory to keep its content.
void ObjectDescriber::look_at_private(const os::MapEntry& m) {
  if (!m.deleted || m.ino == 0 || !m.name.starts_with("/") || m.name == "/anon_hugepage") return;
  const bool memfd = is_memfd(m.name);
  if (memfd && m.dev != shared_memory_device()) return;
  if (!open_.has(key_of(m))) return;
  add(key_of(m), memfd ? format::kObjectMemfd : format::kObjectUnnamed);
}

Trouble ObjectDescriber::run(std::vector<int>* ret_objects) {
  for (const os::MapEntry& m : maps_) {
    if (m.name == std::string("/memfd:") + format::kChannelMemfdName) continue;
    if (claims_mapping(model_, m.name)) continue;
    Trouble bad;
    if (m.shared) {
      bad = look_at_shared(m);
    } else {
      look_at_private(m);
    }
    if (bad.bad()) return bad;
  }
  ret_objects->assign(maps_.size(), kNoObject);
  for (size_t i = 0; !model_.objects.empty() && i < maps_.size(); i++) {
    const os::MapEntry& m = maps_[i];
    if (may_be_object(m)) (*ret_objects)[i] = find_object(model_, key_of(m));
  }
  return {};
}

}  // namespace

bool is_shared_anonymous(const os::MapEntry& m) {
  const bool named = m.name.starts_with("[anon_shmem:");  // PR_SET_VMA_ANON_NAME
  return m.shared && (named || (m.name.starts_with("/dev/zero") && m.deleted));
}

bool may_be_object(const os::MapEntry& m) {
  return m.ino != 0 && (m.name.starts_with("/") || is_shared_anonymous(m));
}

std::string name_of_mapping(const os::MapEntry& m) {
  char t[64];
  snprintf(t, sizeof(t), "%lx-%lx", static_cast<unsigned long>(m.start),
           static_cast<unsigned long>(m.end));
  return std::string("mapping ") + t + (m.name.empty() ? "" : " of " + m.name) +
         (m.deleted ? " (deleted)" : "");
}

ObjectKey key_of(const os::MapEntry& m) { return {is_sysv(m.name), m.dev, m.ino, m.name}; }

// Some file systems show another device in maps than stat does.
int find_object(const store::Model& model, const ObjectKey& key) {
  for (size_t i = 0; i < model.objects.size(); i++) {
    const format::ObjectRecord& o = model.objects[i];
    if (o.ino != key.ino || (o.kind == format::kObjectSysv) != key.sysv) continue;
    if (o.dev == key.dev || model.strings.c_str() + o.name == key.name) return static_cast<int>(i);
  }
  return kNoObject;
}

std::vector<ObjectPart> stored_parts(const format::ObjectRecord& object,
                                     std::span<const format::SegmentRecord> segments,
                                     uint32_t number) {
  if ((object.flags & format::kObjectWhole) != 0) return {{0, object.bytes}};
  std::vector<ObjectPart> all, out;
  for (const format::SegmentRecord& s : segments) {
    const bool shared = s.kind == format::kSegmentObject;
    const bool own = s.kind == format::kSegmentFile && (s.flags & format::kSegmentOfObject) != 0;
    if ((!shared && !own) || s.file_bytes != number || s.file_off >= object.bytes) continue;
    all.push_back({s.file_off, std::min(object.bytes, s.file_off + (s.end - s.start))});
  }
  std::ranges::sort(all, {}, &ObjectPart::from);
  for (const ObjectPart& p : all) {
    if (!out.empty() && p.from <= out.back().to) {
      out.back().to = std::max(out.back().to, p.to);
    } else {
      out.push_back(p);
    }
  }
  return out;
}

bool may_write(std::span<const format::SegmentRecord> segments, uint32_t number) {
  return std::ranges::any_of(segments, [&](const format::SegmentRecord& s) {
    return s.kind == format::kSegmentObject && s.file_bytes == number &&
           ((s.prot & PROT_WRITE) != 0 || (s.flags & format::kSegmentMayWrite) != 0);
  });
}

bool OpenFiles::has(const ObjectKey& key) {
  if (!asked_) {
    asked_ = true;
    auto tids = os::list_tasks(pid_);
    pid_t tid = pid_;
    for (const pid_t t : tids ? *tids : std::vector<pid_t>()) {
      if (t == control_tid_) continue;
      auto fds = os::list_fds(pid_, t);
      tid = t;
      if (fds && !fds->empty()) break;
    }
    auto fds = os::list_fds(pid_, tid);
    for (const int fd : fds ? *fds : std::vector<int>()) {
      const std::string path = os::task_path(pid_, tid, "fd/") + std::to_string(fd);
      struct stat st;
      if (stat(path.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) continue;
      auto target = os::read_link(path);
      std::string link = target ? *target : "";
      static const std::string kDeleted = " (deleted)";
      if (link.ends_with(kDeleted)) link.resize(link.size() - kDeleted.size());
      all_.push_back({false, st.st_dev, st.st_ino, link});
    }
  }
  return std::ranges::any_of(all_, [&](const ObjectKey& o) {
    return o.ino == key.ino && (o.dev == key.dev || o.name == key.name);
  });
}

Trouble describe_objects(const std::vector<os::MapEntry>& maps, OpenFiles& open,
                         store::Model& model, std::vector<int>* ret_objects) {
  return ObjectDescriber(maps, open, model).run(ret_objects);
}

Trouble object_of_descriptor(const std::string& name, const ObjectKey& key, store::Model& model,
                             int* ret_object) {
  *ret_object = kNoObject;
  const auto refuse_fd = [&](const char* why) {
    return trouble(Errc::kUnsupported, 0, name + ": " + why + "close it before the checkpoint");
  };
  if (key.name == kSecretName) return refuse_fd(kSecretWords);
  const bool memfd = is_memfd(key.name);
  if (memfd && key.dev != shared_memory_device()) return refuse_fd(kHugeWords);
  *ret_object = find_object(model, key);
  if (memfd && *ret_object == kNoObject) *ret_object = add_object(model, key, format::kObjectMemfd);
  return {};
}

}  // namespace cr::agent
