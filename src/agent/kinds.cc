// SPDX-License-Identifier: MIT
// kinds.cc - see kinds.h. Invariant: as there. Context: N (agent).
#include "agent/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cr::agent {
namespace {

const KindOfFile* const kKinds[] = {&kEventfdKind, &kSignalfdKind, &kPidfdKind,
                                    &kTimerfdKind, &kEpollKind,    &kInotifyKind};

}  // namespace

std::string name_of(const Descriptor& d) {
  if (d.flies()) return "a descriptor that was sent and not received yet (" + d.link + ")";
  return "fd " + std::to_string(d.fd) + d.aliases + " (" + d.link +
         (d.deleted ? " (deleted)" : "") + ")";
}

Trouble refuse(const Descriptor& d, const std::string& kind, const std::string& next) {
  return trouble(Errc::kUnsupported, 0, name_of(d) + ": " + kind + " cannot be saved yet; " + next);
}

os::Fd Program::copy_of(int fd) const {
  if (fd >= kFlying) return os::Fd(fcntl(fd - kFlying, F_DUPFD_CLOEXEC, 0));
  return os::copy_of_fd(pidfd, tid, fd);
}

pid_t Program::own_id(pid_t id) const {
  // Of its own threads only. The main thread may have ended.
  const std::string status = os::read_or_empty(os::task_path(pid, id == pid ? tid : id, "status"));
  const std::string ids = os::status_field(status, id == pid ? "NStgid" : "NSpid");
  return static_cast<pid_t>(strtol(ids.substr(ids.find_last_of(" \t") + 1).c_str(), nullptr, 10));
}

const KindOfFile* kind_of_link(const std::string& link) {
  for (const KindOfFile* k : kKinds) {
    if (link.starts_with(k->link)) return k;
  }
  return nullptr;
}

const KindOfFile* kind_of_file(uint32_t kind) {
  for (const KindOfFile* k : kKinds) {
    if (k->kind == kind) return k;
  }
  return nullptr;
}

SavedFile saved_file(const format::ImageView& image, uint32_t file) {
  const format::FileRecord& f = image.files[file];
  SavedFile s{image, f, -1, image.string(f.path)};
  for (const format::FdRecord& r : image.fds) {
    if (r.file != file) continue;
    s.fd = r.fd;
    s.name = "fd " + std::to_string(r.fd) + " (" + s.name + ")";
    break;
  }
  return s;
}

namespace {

// Another descriptor stands in its place until then, so the new one cannot have its number.
void make_in_place(const KindOfFile& kind, const SavedFile& f, Recipe& recipe) {
  kind.make(f, recipe);
  const size_t made = recipe.calls().size() - 1;
  for (const format::FdRecord& r : f.image.fds) {
    if (&f.image.files[r.file] != &f.file) continue;
    recipe.call(f.name, __NR_dup3, {Recipe::result(made), r.fd, r.cloexec != 0 ? O_CLOEXEC : 0});
  }
  recipe.call(f.name, __NR_close, {Recipe::result(made)});
}

}  // namespace

void furnish_files(const format::ImageView& image, bool make, Recipes& recipes) {
  for (const bool last : {false, true}) {
    for (uint32_t i = 0; i < image.files.size(); i++) {
      const KindOfFile* kind = kind_of_file(image.files[i].kind);
      if (kind == nullptr || kind->last != last) continue;
      const SavedFile f = saved_file(image, i);
      if (make && kind->by_process != nullptr && kind->by_process(f)) {
        make_in_place(*kind, f, recipes.early);
      }
      if (kind->furnish != nullptr) kind->furnish(f, recipes);
    }
  }
}

bool info_number(const Descriptor& d, const char* name, int base, uint64_t* ret) {
  const std::string text = os::status_field(d.info.extra, name);
  if (text.empty()) return false;
  char* end = nullptr;
  *ret = strtoull(text.c_str(), &end, base);
  return end != text.c_str();
}

}  // namespace cr::agent
