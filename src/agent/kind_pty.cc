// SPDX-License-Identifier: MIT
// kind_pty.cc - see kind_pty.h: describing. Invariant: as there. Context: N (agent).
#include "agent/kind_pty.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/terminal.h"
#include "agent/tree_files.h"
#include "os/proc.h"

namespace cr::agent {
namespace {

using format::PtyState;

constexpr unsigned kSlaveMajor = 136;

bool is_master(const Descriptor& d) {
  return S_ISCHR(d.st.st_mode) && major(d.st.st_rdev) == 5 && minor(d.st.st_rdev) == 2 &&
         (d.info.flags & O_PATH) == 0;
}

bool is_slave(const Descriptor& d) {
  return S_ISCHR(d.st.st_mode) && major(d.st.st_rdev) == kSlaveMajor &&
         (d.info.flags & O_PATH) == 0;
}

bool number_of(int master, uint32_t* ret) { return ioctl(master, TIOCGPTN, ret) == 0; }

bool has_master(const Program& program, uint32_t number) {
  for (const Descriptor& d : program.all) {
    uint32_t n = 0;
    if (is_master(d) && number_of(program.copy_of(d.fd).get(), &n) && n == number) return true;
  }
  return program.others != nullptr && program.others->has_pty_master(number);
}

// One for reading and writing, if there is one.
const Descriptor* slave_of(const Program& program, uint32_t number) {
  const Descriptor* found = nullptr;
  for (const Descriptor& d : program.all) {
    if (!is_slave(d) || d.deleted || minor(d.st.st_rdev) != number) continue;
    if (found == nullptr || (d.info.flags & O_ACCMODE) == O_RDWR) found = &d;
  }
  return found;
}

struct Master {
  const Descriptor* d;
  uint32_t number;
};

// Which of them has an end that this process has open.
const Master* held_by(pid_t pid, const Program& program, const std::vector<Master>& masters) {
  const pid_t tid = os::living_task(pid);
  auto fds = os::list_fds(pid, tid);
  for (const int fd : fds ? *fds : std::vector<int>()) {
    auto link = os::read_link(os::task_path(pid, tid, "fd/") + std::to_string(fd));
    if (!link || !link->starts_with("/dev/pt")) continue;
    for (const Master& m : masters) {
      if (*link == "/dev/pts/" + std::to_string(m.number)) return &m;
      if (*link == m.d->link && syscall(__NR_kcmp, program.tid, tid, KCMP_FILE, m.d->fd, fd) == 0) {
        return &m;
      }
    }
  }
  return nullptr;
}

// Modes and window, of both ends.
Trouble look(const Descriptor& d, int master, PtyState* s) {
  int locked = 0, packet = 0, exclusive = 0;
  if (!number_of(master, &s->number) || !read_terminal(master, &s->terminal) ||
      ioctl(master, TIOCGPTLCK, &locked) != 0 || ioctl(master, TIOCGPKT, &packet) != 0 ||
      ioctl(master, TIOCGEXCL, &exclusive) != 0) {
    return trouble(Errc::kUnsupported, errno,
                   name_of(d) + ": the pseudoterminal cannot be looked at: " + strerror(errno));
  }
  if (s->terminal.line != 0) {
    return refuse(d, "a pseudoterminal with line discipline " + std::to_string(s->terminal.line),
                  "close it before the checkpoint");
  }
  pollfd p{master, POLLPRI, 0};
  if (packet != 0 && poll(&p, 1, 0) > 0 && (p.revents & POLLPRI) != 0) {
    return trouble(Errc::kUnsupported, 0,
                   name_of(d) +
                       ": a status that packet mode reports was not read yet, and cannot "
                       "be saved; checkpoint when the program has read it");
  }
  s->flags = (locked != 0 ? format::kPtyLocked : 0) | (packet != 0 ? format::kPtyPacket : 0) |
             (exclusive != 0 ? format::kPtyMasterExclusive : 0);
  return {};
}

// The descriptor of the program's, or one of our own for the moment; of a slave that nobody has
// opened yet none, as it would show.
os::Fd open_slave_end(const Program& program, int master, PtyState* s) {
  const Descriptor* d = slave_of(program, s->number);
  if (d != nullptr) {
    os::Fd copy = program.copy_of(d->fd);
    int exclusive = 0;
    if (ioctl(copy.get(), TIOCGEXCL, &exclusive) == 0 && exclusive != 0) {
      s->flags |= format::kPtySlaveExclusive;
    }
    s->dev = d->st.st_dev;
    if ((d->info.flags & O_ACCMODE) == O_RDWR) return copy;
    return os::Fd(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  }
  pollfd p{master, POLLIN, 0};
  const bool closed = poll(&p, 1, 0) > 0 && (p.revents & POLLHUP) != 0;
  const bool elsewhere = program.others != nullptr && program.others->has_pty_slave(s->number);
  if (!closed && !elsewhere) {
    s->flags |= format::kPtyNeverOpened;
    return {};
  }
  return os::Fd(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
}

// What is out must come back, or the program has lost it: that is worse than no checkpoint.
Trouble copy_content(const Descriptor& d, int master, int slave, const PtyState& s,
                     PtyContent* ret) {
  const int off = 0, on = 1;
  const bool packet = (s.flags & format::kPtyPacket) != 0;
  if (packet) ioctl(master, TIOCPKT, &off);
  const bool taken = take_content(master, slave, s.terminal, ret);
  const int e = errno;
  const bool back = put_content(master, slave, s.terminal, *ret);
  if (packet) ioctl(master, TIOCPKT, &on);
  if (taken && back) return {};
  return trouble(Errc::kUnsupported, taken ? errno : e,
                 name_of(d) + ": what was not read from the pseudoterminal cannot be copied" +
                     (back ? "" : ", and some of it is lost") + ": " + strerror(taken ? errno : e));
}

Trouble note_controlling(const Program& program, const Descriptor& d, PtyState* s) {
  auto stat = os::read_stat(program.pid, program.tid);
  if (!stat || stat->tty_major != kSlaveMajor || stat->tty_minor != s->number) return {};
  if (stat->sid != program.pid) return {};
  bool open = false;
  for (const Descriptor& o : program.all) {
    const bool by_name = major(o.st.st_rdev) == 5 && minor(o.st.st_rdev) == 0;
    open = open || (S_ISCHR(o.st.st_mode) && by_name) || &o == slave_of(program, s->number);
  }
  if (!open) {
    return refuse(d, "a controlling terminal that the process has closed", "leave it open");
  }
  s->flags |= format::kPtyControlling;
  return {};
}

}  // namespace

Trouble refuse_shared_ptys(const Program& program) {
  std::vector<Master> masters;
  for (const Descriptor& d : program.all) {
    uint32_t n = 0;
    if (is_master(d) && number_of(program.copy_of(d.fd).get(), &n)) masters.push_back({&d, n});
  }
  DIR* proc = masters.empty() ? nullptr : opendir("/proc");
  const Master* shared = nullptr;
  pid_t other = 0;
  while (const dirent* e = shared == nullptr && proc != nullptr ? readdir(proc) : nullptr) {
    other = static_cast<pid_t>(strtol(e->d_name, nullptr, 10));
    if (other <= 0 || other == program.pid || other == getpid()) continue;
    if (program.others != nullptr && program.others->has_process(other)) continue;
    shared = held_by(other, program, masters);
  }
  if (proc != nullptr) closedir(proc);
  if (shared == nullptr) return {};
  return trouble(Errc::kUnsupported, 0,
                 name_of(*shared->d) + ": process " + std::to_string(other) +
                     " has the pseudoterminal /dev/pts/" + std::to_string(shared->number) +
                     " open too; end it, or close the master, before the checkpoint");
}

Trouble describe_pty_master(const Program& program, const Descriptor& d, format::FileRecord& f) {
  const os::Fd master = program.copy_of(d.fd);
  PtyState s{};
  Trouble bad = look(d, master.get(), &s);
  if (!bad.bad()) bad = note_controlling(program, d, &s);
  if (bad.bad()) return bad;
  const os::Fd slave = open_slave_end(program, master.get(), &s);
  PtyContent content;
  pollfd p{master.get(), POLLIN, 0};
  if (slave) {
    bad = copy_content(d, master.get(), slave.get(), s, &content);
  } else if ((s.flags & format::kPtyNeverOpened) == 0) {
    bad = trouble(Errc::kUnsupported, errno,
                  name_of(d) + ": /dev/pts/" + std::to_string(s.number) + " cannot be opened: " +
                      strerror(errno) + "; unlock it before the checkpoint");
  } else if (poll(&p, 1, 0) > 0 && (p.revents & POLLIN) != 0) {
    bad = trouble(Errc::kUnsupported, 0,
                  name_of(d) +
                      ": what was not read from the pseudoterminal cannot be copied "
                      "while nobody has its slave open");
  }
  if (bad.bad()) return bad;
  s.flags |= content.stopped;
  store::Model& m = program.model;
  s.input = m.add_blob(content.input.data(), content.input.size());
  s.lines = m.add_blob(content.lines.data(), content.lines.size() * sizeof(format::PtyLine));
  s.output = m.add_blob(content.output.data(), content.output.size());
  f.kind = format::kFilePtyMaster;
  f.pair = s.number;
  set_state(program, f, s);
  return {};
}

bool describe_pty_slave(const Program& program, const Descriptor& d, format::FileRecord& f) {
  uint32_t number = minor(d.st.st_rdev);
  if (major(d.st.st_rdev) == 5 && minor(d.st.st_rdev) == 0) {  // /dev/tty
    auto stat = os::read_stat(program.pid, program.tid);
    if (!stat || stat->tty_major != kSlaveMajor) return false;
    number = stat->tty_minor;
  } else if (!is_slave(d)) {
    return false;
  }
  // Of one that has hung up on a standard stream nobody knows whose it was.
  const bool hung_up = d.deleted && f.std_fd < 0;
  if (!hung_up && (d.deleted || !has_master(program, number))) return false;
  f.kind = format::kFilePtySlave;
  f.pair = number;
  f.std_fd = -1;
  f.file_bytes = hung_up ? 1 : 0;
  return true;
}

}  // namespace cr::agent
