// SPDX-License-Identifier: MIT
// file_owners.cc - see file_owners.h. Invariant: as there. Context: N (agent).
#include "agent/file_owners.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace cr::agent {
namespace {

constexpr size_t kPidOff = 4;  // in struct f_owner_ex

bool own_thread(pid_t pid, pid_t tid) {
  return access(os::task_path(pid, tid, "status").c_str(), F_OK) == 0;
}

// As the image has it; false: it is another process.
bool own(const Program& program, const f_owner_ex& now, format::OwnerRecord* ret) {
  ret->type = static_cast<uint32_t>(now.type);
  if (now.pid == 0) return true;
  switch (now.type) {
    case F_OWNER_PGRP:  // 0: the process's own
      return now.pid == getpgid(program.pid);
    case F_OWNER_PID:
      ret->id = now.pid == program.pid ? program.own_id(now.pid) : 0;
      return ret->id != 0;
    default:
      ret->id = program.own_id(now.pid);
      return ret->id != 0;
  }
}

void set_owner(int fd, const format::OwnerRecord& o, const std::string& what, Recipe& recipe) {
  if (o.type == F_OWNER_PGRP) {
    recipe.call(what, format::kCallSignalGroup, {fd});
    return;
  }
  const int32_t owner[2] = {static_cast<int32_t>(o.type), 0};
  const Arg data = recipe.data(owner, sizeof(owner));
  recipe.call(what, format::kCallStoreId,
              {Recipe::id(o.id), Arg(data.value + kPidOff, format::kArgData)});
  recipe.call(what, __NR_fcntl, {fd, F_SETOWN_EX, data});
}

const format::OwnerRecord* owner_of(const format::ImageView& image, uint32_t file) {
  for (const format::OwnerRecord& o : image.owners) {
    if (o.file == file) return &o;
  }
  return nullptr;
}

}  // namespace

OwnerChange compare_owner(const format::ImageView& image, uint32_t file, pid_t pid, int fd) {
  f_owner_ex now{};
  const bool owned = fcntl(fd, F_GETOWN_EX, &now) == 0 && now.pid != 0;
  const bool other_signal = fcntl(fd, F_GETSIG) > 0;
  const format::OwnerRecord* then = owner_of(image, file);
  if (then != nullptr && then->owned != 0 && then->type == F_OWNER_PGRP) {
    const bool same = owned && now.type == F_OWNER_PGRP && now.pid == getpgid(pid);
    return same ? OwnerChange::kNone : OwnerChange::kImpossible;
  }
  return owned || other_signal ? OwnerChange::kTakeAway : OwnerChange::kNone;
}

void signal_own_group(const format::ImageView& image, uint32_t file, int fd) {
  const format::OwnerRecord* then = owner_of(image, file);
  const f_owner_ex group{F_OWNER_PGRP, getpgrp()};
  if (then != nullptr && then->owned != 0 && then->type == F_OWNER_PGRP) {
    (void)fcntl(fd, F_SETOWN_EX, &group);  // where it fails the process does it
  }
}

Trouble describe_owner(const Program& program, const Descriptor& d, uint32_t file,
                       const format::FileRecord& f) {
  if ((d.info.flags & O_PATH) != 0) return {};
  const os::Fd copy = program.copy_of(d.fd);
  f_owner_ex now{};
  // Without its main thread, before Linux 6.9, nobody can look; nothing is signalled then.
  if (!copy && (d.info.flags & O_ASYNC) == 0) return {};
  const int signal = copy ? fcntl(copy.get(), F_GETSIG) : -1;
  if (signal < 0 || fcntl(copy.get(), F_GETOWN_EX, &now) != 0) {
    return trouble(Errc::kSystem, errno, name_of(d) + ": its owner: " + strerror(errno));
  }
  const bool async = (d.info.flags & O_ASYNC) != 0;
  if (now.pid == 0 && signal == 0 && !async) return {};
  format::OwnerRecord r{};
  r.file = file;
  r.signal = signal;
  r.async = async ? 1 : 0;
  r.owned = now.pid != 0 ? 1 : 0;
  if (own(program, now, &r)) {
    program.model.owners.push_back(r);
    return {};
  }
  const bool inherited = f.kind == format::kFileTerminal || f.kind == format::kFileStdPipe;
  if (inherited) return {};
  return refuse(
      d, "that its signals go to another process (F_SETOWN, " + std::to_string(now.pid) + ")",
      "take that back before the checkpoint (F_SETOWN with 0)");
}

void silence_owners(pid_t pid, int pidfd) {
  const pid_t tid = os::living_task(pid);
  auto fds = os::list_fds(pid, tid);
  for (const int fd : fds ? *fds : std::vector<int>()) {
    const os::Fd copy = os::copy_of_fd(pidfd, tid, fd);
    f_owner_ex now{};
    if (!copy || fcntl(copy.get(), F_GETOWN_EX, &now) != 0 || now.pid == 0) continue;
    const bool own = now.type == F_OWNER_PGRP ? now.pid == getpgid(pid)
                                              : now.pid == pid || own_thread(pid, now.pid);
    if (own) (void)fcntl(copy.get(), F_SETOWN, 0);
  }
}

void set_owners(const format::ImageView& image, Recipe& recipe) {
  for (const format::OwnerRecord& o : image.owners) {
    const SavedFile f = saved_file(image, o.file);
    const std::string what = f.name + ": whom it signals";
    if (o.owned != 0) {
      set_owner(f.fd, o, what, recipe);
    }
    if (o.signal != 0) recipe.call(what, __NR_fcntl, {f.fd, F_SETSIG, o.signal});
    const int on = 1;
    if (o.async != 0) recipe.call(what, __NR_ioctl, {f.fd, FIOASYNC, recipe.data(&on, sizeof(on))});
  }
}

}  // namespace cr::agent
