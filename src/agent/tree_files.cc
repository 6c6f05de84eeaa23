// SPDX-License-Identifier: MIT
// tree_files.cc - see tree_files.h. Invariant: as there. Context: N (agent).
#include "agent/tree_files.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "os/fd.h"
#include "os/proc.h"

namespace cr::agent {

bool TreeFiles::add_process(pid_t pid, pid_t tid) {
  auto fds = os::list_fds(pid, tid);
  if (!fds) return false;
  pids_.push_back(pid);
  const std::string dir = os::task_path(pid, tid, "fd/");
  for (const int fd : *fds) {
    struct stat st;
    if (stat((dir + std::to_string(fd)).c_str(), &st) != 0 || S_ISREG(st.st_mode)) continue;
    Open o{pid, st.st_dev, st.st_ino, 0, st.st_rdev};
    if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(5, 2)) {
      const os::Fd pidfd(static_cast<int>(syscall(__NR_pidfd_open, pid, 0)));
      const os::Fd master = os::copy_of_fd(pidfd.get(), tid, fd);
      uint32_t number = 0;
      if (master && ioctl(master.get(), TIOCGPTN, &number) == 0) pty_masters_.push_back(number);
    }
    if (S_ISFIFO(st.st_mode)) {
      auto info = os::read_fdinfo(pid, tid, fd);
      o.accmode = info ? info->flags & O_ACCMODE : 0;
    }
    open_.push_back(o);
  }
  return true;
}

bool TreeFiles::find(pid_t tid, int fd, uint64_t dev, uint64_t ino, Place* ret) const {
  for (const Described& d : described_) {
    if (d.dev != dev || d.ino != ino) continue;
    if (syscall(__NR_kcmp, d.tid, tid, KCMP_FILE, d.fd, fd) != 0) continue;
    *ret = d.place;
    return true;
  }
  return false;
}

void TreeFiles::note(uint32_t member, pid_t tid, int fd, uint64_t dev, uint64_t ino,
                     uint32_t file) {
  described_.push_back({{member, file}, tid, fd, dev, ino});
}

bool TreeFiles::has_other_end(uint64_t dev, uint64_t ino, uint64_t accmode) const {
  return std::ranges::any_of(
      open_, [&](const Open& o) { return o.dev == dev && o.ino == ino && o.accmode != accmode; });
}

bool TreeFiles::has_process(pid_t pid) const { return std::ranges::count(pids_, pid) != 0; }

bool TreeFiles::has_pty_master(uint32_t number) const {
  return std::ranges::count(pty_masters_, number) != 0;
}

bool TreeFiles::has_pty_slave(uint32_t number) const {
  constexpr unsigned kSlaveMajor = 136;
  return std::ranges::any_of(open_,
                             [&](const Open& o) { return o.rdev == makedev(kSlaveMajor, number); });
}

bool TreeFiles::has(uint64_t dev, uint64_t ino) const {
  return std::ranges::any_of(open_, [&](const Open& o) { return o.dev == dev && o.ino == ino; });
}

}  // namespace cr::agent
