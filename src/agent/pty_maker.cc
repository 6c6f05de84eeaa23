// SPDX-License-Identifier: MIT
// pty_maker.cc - see kind_pty.h: making, and putting back in place. Invariant: as there.
// Context: N (agent).
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/kind_pty.h"
#include "agent/terminal.h"

namespace cr::agent {
namespace {

using format::PtyState;

constexpr size_t kMostSpare = 4096;
constexpr int kTries = 5, kWaitMs = 20, kLockTries = 100;

Trouble cannot(const std::string& name, const std::string& why) {
  return trouble(Errc::kSystem, errno, name + ": the pseudoterminal " + why);
}

int flags_of(const format::FileRecord& f) {
  const auto dropped = static_cast<uint32_t>(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_ASYNC);
  return static_cast<int>(f.open_flags & ~dropped) | O_NOCTTY | O_CLOEXEC;
}

std::string slave_path(uint32_t number) { return "/dev/pts/" + std::to_string(number); }

os::Fd open_master_fd(uint32_t* ret_number) {
  os::Fd fd(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (fd && ioctl(fd.get(), TIOCGPTN, ret_number) != 0) fd.reset();
  return fd;
}

bool is_taken(uint32_t number) {
  struct stat st;
  return stat(slave_path(number).c_str(), &st) == 0;
}

void wait_ms(int ms) { (void)poll(nullptr, 0, ms); }

bool unlock(int master) {
  const int off = 0;
  return ioctl(master, TIOCSPTLCK, &off) == 0;
}

// One whose master was closed.
Trouble open_hung_up(const SavedFile& f, os::Fd* ret) {
  uint32_t number = 0;
  const os::Fd master = open_master_fd(&number);
  if (!master || !unlock(master.get())) return cannot(f.name, "cannot be made");
  *ret = os::Fd(ioctl(master.get(), TIOCGPTPEER, flags_of(f.file)));
  return *ret ? Trouble{} : cannot(f.name, std::string("cannot be opened: ") + strerror(errno));
}

// Modes, window, content; then what would be in the way of them.
bool set_state(int master, int slave, const PtyState& s, const PtyContent& content) {
  format::TerminalState now;
  if (!read_terminal(master, &now)) return false;
  const bool resized = now.rows != s.terminal.rows || now.columns != s.terminal.columns ||
                       now.x_pixels != s.terminal.x_pixels || now.y_pixels != s.terminal.y_pixels;
  const bool set =
      slave < 0 ? set_modes(master, s.terminal) : put_content(master, slave, s.terminal, content);
  if (!set || (resized && !set_window(master, s.terminal))) return false;
  const auto exclusive = [](int fd, bool on) { return ioctl(fd, on ? TIOCEXCL : TIOCNXCL) == 0; };
  const int packet = (s.flags & format::kPtyPacket) != 0 ? 1 : 0;
  const int locked = (s.flags & format::kPtyLocked) != 0 ? 1 : 0;
  return exclusive(master, (s.flags & format::kPtyMasterExclusive) != 0) &&
         (slave < 0 || exclusive(slave, (s.flags & format::kPtySlaveExclusive) != 0)) &&
         ioctl(master, TIOCPKT, &packet) == 0 && ioctl(master, TIOCSPTLCK, &locked) == 0;
}

}  // namespace

PtyContent content_of_pty(const format::ImageView& image, const PtyState& s) {
  PtyContent c;
  const auto text = [&](format::BlobRef r) {
    const auto b = image.blob(r);
    return std::string(reinterpret_cast<const char*>(b.data()), b.size());
  };
  c.input = text(s.input);
  c.output = text(s.output);
  const auto lines = image.states<format::PtyLine>(s.lines);
  c.lines.assign(lines.begin(), lines.end());
  c.stopped = s.flags & (format::kPtyStopped | format::kPtyHeld);
  return c;
}

// The same end of the same pseudoterminal.
os::Fd PtyMaker::take_live(const SavedFile& f) const {
  constexpr unsigned kSlaveMajor = 136;
  for (const format::FdRecord& r : f.image.fds) {
    if (live_pidfd_ < 0 || &f.image.files[r.file] != &f.file) continue;
    os::Fd fd(static_cast<int>(syscall(__NR_pidfd_getfd, live_pidfd_, r.fd, 0)));
    struct stat st;
    uint32_t number = 0;
    if (!fd || fstat(fd.get(), &st) != 0) continue;
    const bool master = ioctl(fd.get(), TIOCGPTN, &number) == 0;
    format::TerminalState state;
    const bool slave = !master && st.st_rdev == makedev(kSlaveMajor, f.file.pair) &&
                       read_terminal(fd.get(), &state);  // not hung up
    const bool same_mode =
        ((static_cast<uint32_t>(fcntl(fd.get(), F_GETFL)) ^ f.file.open_flags) & O_ACCMODE) == 0;
    const bool wanted = f.file.kind == format::kFilePtyMaster ? master && number == f.file.pair
                                                              : slave && same_mode;
    if (wanted) return fd;
  }
  return {};
}

// Of several restores at one time each would meet what the others hold for a moment.
void PtyMaker::lock_numbers() {
  if (lock_) return;
  lock_ = os::Fd(open("/dev/pts", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < kLockTries && flock(lock_.get(), LOCK_EX | LOCK_NB) != 0; i++) {
    wait_ms(kWaitMs);
  }
}

// The kernel gives the lowest number that is free: if this one is, it comes up.
os::Fd PtyMaker::open_numbered(uint32_t number, uint32_t* ret_number) {
  lock_numbers();
  for (int i = 0; i < kTries; i++) {
    if (const auto it = spare_.find(number); it != spare_.end()) {
      *ret_number = number;
      os::Fd found = std::move(it->second);
      spare_.erase(it);
      return found;
    }
    while (!is_taken(number) && spare_.size() < kMostSpare) {
      os::Fd fd = open_master_fd(ret_number);
      if (!fd || *ret_number == number) return fd;
      const bool passed = *ret_number > number;  // somebody has it, or had it just now
      spare_.emplace(*ret_number, std::move(fd));
      if (passed) break;
    }
    wait_ms(kWaitMs);
  }
  spare_.clear();
  return open_master_fd(ret_number);
}

// A slave may come before its master, from another image.
Trouble PtyMaker::make(uint32_t number, const std::string& name, Pty& p) {
  p.name = name;
  if (p.master) return {};
  p.master = open_numbered(number, &p.number);
  if (!p.master && errno == EMFILE) {
    spare_.clear();
    p.master = open_master_fd(&p.number);
  }
  if (!p.master || !unlock(p.master.get())) {
    return cannot(name, std::string("cannot be made: ") + strerror(errno));
  }
  p.fresh = true;
  return {};
}

Trouble PtyMaker::open_master(const SavedFile& f, os::Fd* ret) {
  Pty& p = all_[f.file.pair];
  if (!p.master) {
    p.master = take_live(f);
    p.number = f.file.pair;
  }
  Trouble bad = make(f.file.pair, f.name, p);
  if (bad.bad()) return bad;
  p.state = &f.image.states<PtyState>(f.file.content).front();
  p.content = content_of_pty(f.image, *p.state);
  *ret = os::Fd(fcntl(p.master.get(), F_DUPFD_CLOEXEC, 0));
  if (!*ret || fcntl(ret->get(), F_SETFL, f.file.open_flags & (O_NONBLOCK | O_APPEND)) != 0) {
    return cannot(f.name, strerror(errno));
  }
  return {};
}

Trouble PtyMaker::open_slave(const SavedFile& f, os::Fd* ret) {
  if (f.file.file_bytes != 0) return open_hung_up(f, ret);
  Pty& p = all_[f.file.pair];
  *ret = take_live(f);
  if (*ret && (f.file.open_flags & O_ACCMODE) == O_RDWR) {
    p.slave = os::Fd(fcntl(ret->get(), F_DUPFD_CLOEXEC, 0));
  }
  if (*ret) return {};
  Trouble bad = make(f.file.pair, f.name, p);
  if (bad.bad()) return bad;
  *ret = os::Fd(ioctl(p.master.get(), TIOCGPTPEER, flags_of(f.file)));
  if (!*ret) return cannot(f.name, std::string("cannot be opened: ") + strerror(errno));
  if (p.fresh) (void)fchmod(ret->get(), f.file.mode & 07777);
  return {};
}

Trouble PtyMaker::finish(std::vector<std::string>& warnings) {
  for (auto& [number, p] : all_) {
    if (p.state == nullptr) continue;  // its master is not there: it hangs up
    if (p.number != number) {
      warnings.push_back(p.name + ": the pseudoterminal /dev/pts/" + std::to_string(number) +
                         " is in use by others; the program has /dev/pts/" +
                         std::to_string(p.number) +
                         " instead, and does not find it by the name that it may have kept");
    }
    os::Fd slave = std::move(p.slave);
    if (!slave && (p.state->flags & format::kPtyNeverOpened) == 0) {
      unlock(p.master.get());
      slave = os::Fd(ioctl(p.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
      if (!slave) return cannot(p.name, std::string("has no other end: ") + strerror(errno));
    }
    PtyContent drop;
    const int off = 0;
    ioctl(p.master.get(), TIOCPKT, &off);
    format::TerminalState now;
    if (!p.fresh && slave &&
        (!read_terminal(p.master.get(), &now) ||
         !take_content(p.master.get(), slave.get(), now, &drop))) {
      return cannot(p.name, std::string("cannot be emptied: ") + strerror(errno));
    }
    if (!set_state(p.master.get(), slave.get(), *p.state, p.content)) {
      return cannot(p.name, std::string("cannot be put back: ") + strerror(errno));
    }
  }
  all_.clear();
  spare_.clear();
  lock_.reset();
  return {};
}

std::string plan_pty_change(const SavedFile& f, os::Fd master, os::Fd slave, PtyChange* ret) {
  uint32_t number = 0;
  const PtyState& s = f.image.states<PtyState>(f.file.content).front();
  pollfd p{master.get(), 0, 0};
  if (!master || ioctl(master.get(), TIOCGPTN, &number) != 0 || number != s.number) {
    return "a pseudoterminal was closed or replaced";
  }
  const bool closed = poll(&p, 1, 0) > 0 && (p.revents & POLLHUP) != 0;
  if ((s.flags & format::kPtyNeverOpened) != 0 && closed) {
    return "a pseudoterminal's slave was opened since";
  }
  if (!slave && (s.flags & format::kPtyNeverOpened) == 0) {
    slave = os::Fd(ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!slave) return std::string("a pseudoterminal's slave cannot be opened: ") + strerror(errno);
  }
  *ret = {std::move(master), std::move(slave), &s, content_of_pty(f.image, s)};
  return "";
}

bool put_pty_back(PtyChange& c) {
  const int off = 0;
  const int master = c.master.get(), slave = c.slave.get();
  format::TerminalState now;
  PtyContent drop;
  ioctl(master, TIOCPKT, &off);
  if (slave >= 0 && (!read_terminal(master, &now) || !take_content(master, slave, now, &drop))) {
    return false;
  }
  return set_state(master, slave, *c.state, c.content);
}

bool controls_own_terminal(const format::ImageView& image) {
  for (const format::FileRecord& f : image.files) {
    if (f.kind == format::kFilePtyMaster &&
        (image.states<PtyState>(f.content).front().flags & format::kPtyControlling) != 0) {
      return true;
    }
  }
  return false;
}

void take_controlling_terminal(const format::ImageView& image, Recipe& recipe) {
  for (uint32_t i = 0; i < image.files.size(); i++) {
    const format::FileRecord& m = image.files[i];
    if (m.kind != format::kFilePtyMaster) continue;
    const PtyState& s = image.states<PtyState>(m.content).front();
    for (uint32_t k = 0; (s.flags & format::kPtyControlling) != 0 && k < image.files.size(); k++) {
      const format::FileRecord& f = image.files[k];
      if (f.kind != format::kFilePtySlave || f.pair != m.pair || f.file_bytes != 0) continue;
      const SavedFile slave = saved_file(image, k);
      recipe.call(slave.name + ": making it the controlling terminal", __NR_ioctl,
                  {slave.fd, TIOCSCTTY, 0});
      return;
    }
  }
}

}  // namespace cr::agent
