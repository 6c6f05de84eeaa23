// SPDX-License-Identifier: MIT
// outer_terminal.cc - see outer_terminal.h. Invariant: as there. Context: N (agent).
#include "agent/outer_terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "agent/terminal.h"
#include "os/proc.h"
#include "rawsys/rawsys.h"

namespace cr::agent {
namespace {

using format::TerminalState;

constexpr uint64_t kMs = 1000000;
constexpr uint64_t kSettleMs = 100;  // for a program that runs again to come to its senses
constexpr uint64_t kLookMs = 500;
constexpr int kMostTries = 40;

uint64_t in_ms(uint64_t ms) { return rawsys::now_ns() + ms * kMs; }

os::Fd of_program(const format::ImageView& image, uint32_t file, int pidfd) {
  for (const format::FdRecord& r : image.fds) {
    if (r.file == file) return os::Fd(static_cast<int>(syscall(__NR_pidfd_getfd, pidfd, r.fd, 0)));
  }
  return {};
}

std::vector<os::Fd> own_descriptors() {
  std::vector<os::Fd> all;
  all.emplace_back(open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC));
  for (const int fd : {0, 1, 2}) all.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  return all;
}

// Has it taken the signal, and gone back to sleep?
bool has_dealt_with(pid_t pid, int signal) {
  const std::string status = os::read_or_empty("/proc/" + std::to_string(pid) + "/status");
  uint64_t pending = 0;
  for (const char* field : {"SigPnd", "ShdPnd"}) {
    pending |= strtoull(os::status_field(status, field).c_str(), nullptr, 16);
  }
  const bool runs = os::status_field(status, "State").starts_with("R");
  return (pending >> (signal - 1) & 1) == 0 && !runs;
}

}  // namespace

OuterTerminal::OuterTerminal(bool ours) : ours_(ours) {
  if (!ours) return;
  for (const os::Fd& fd : own_descriptors()) {
    Found f{};
    if (!fd || !read_terminal(fd.get(), &f.before)) continue;
    f.device = terminal_device(fd.get());
    const bool known =
        std::ranges::any_of(found_, [&](const Found& o) { return o.device == f.device; });
    if (!known) found_.push_back(f);
  }
}

os::Fd OuterTerminal::Found::open() const {
  for (os::Fd& fd : own_descriptors()) {
    if (fd && terminal_device(fd.get()) == device) return std::move(fd);
  }
  return {};
}

// Or it is not our controlling terminal, and nobody else's business.
bool OuterTerminal::in_front(int fd) const {
  const pid_t group = tcgetpgrp(fd);
  return group < 0 ? errno == ENOTTY : group == getpgrp();
}

void OuterTerminal::look_at_handlers(const format::ImageView& image) {
  const auto handled = [&](int signal) {
    const auto index = static_cast<size_t>(signal) - 1;
    return index < image.sigactions.size() && image.sigactions[index].handler > 1;
  };
  hears_window_ = handled(SIGWINCH);
  hears_continue_ = handled(SIGCONT);
}

void OuterTerminal::restored(const format::ImageView& image, pid_t pid, int pidfd) {
  wanted_.clear();
  own_group_ = false;
  look_at_handlers(image);
  std::vector<uint32_t> seen;
  for (uint32_t i = 0; i < image.files.size(); i++) {
    const TerminalState* s = state_of_terminal(image, image.files[i]);
    if (s == nullptr) continue;
    Wanted w{of_program(image, i, pidfd), *s};
    TerminalState now;
    if (!w.fd || !read_terminal(w.fd.get(), &now)) continue;  // something else took its place
    const uint32_t device = terminal_device(w.fd.get());
    if (std::ranges::count(seen, device) != 0) continue;
    seen.push_back(device);
    // Modes in the background are those of another job, a shell's perhaps.
    const bool controlling = (s->flags & format::kTerminalControlling) != 0;
    if (controlling && (s->flags & format::kTerminalForeground) == 0) continue;
    wanted_.push_back(std::move(w));
  }
  pid_ = pid;
  give(pid);
}

// In the background it waits until somebody brings us to the front.
void OuterTerminal::give(pid_t pid) {
  for (Wanted& w : wanted_) {
    if (!w.fd || (ours_ && !in_front(w.fd.get()))) continue;
    (void)set_modes(w.fd.get(), w.state);
    if ((w.state.flags & format::kTerminalForeground) != 0 && ours_) {
      own_group_ = own_group_ || (getpgid(pid) != getpgrp() && getpgid(pid) > 0);
      painted_ = w.state;
      if (was_restored_) begin_painting(w.fd.get());
    }
    w.fd.reset();
  }
  std::erase_if(wanted_, [](const Wanted& w) { return !w.fd; });
  // A job that runs in the background is brought to the front without a sign.
  if (!wanted_.empty() && paint_ == Paint::kNot) due_ns_ = in_ms(kLookMs);
  if (!own_group_) return;
  const FromBackground unstopped;
  for (const Found& f : found_) {
    const os::Fd fd = f.open();
    if (tcgetpgrp(fd.get()) == getpgrp()) (void)tcsetpgrp(fd.get(), getpgid(pid));
  }
}

int OuterTerminal::timeout_ms(int otherwise) const {
  if (due_ns_ == ~uint64_t{0}) return otherwise;
  const uint64_t now = in_ms(0);
  const int left = now >= due_ns_ ? 0 : static_cast<int>((due_ns_ - now) / kMs) + 1;
  return otherwise < 0 ? left : std::min(left, otherwise);
}

// What was painted is on another screen, or nowhere. Programs look at their window when they are
// told that it has changed, and some only then, if it has.
void OuterTerminal::begin_painting(int fd) {
  if (!hears_window_ && !hears_continue_) return;
  screen_ = os::Fd(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  paint_ = Paint::kBegin;
  tries_ = 0;
  due_ns_ = in_ms(kSettleMs);
}

void OuterTerminal::step() {
  due_ns_ = ~uint64_t{0};
  TerminalState now;
  const Paint what = paint_;
  paint_ = Paint::kNot;
  if (!wanted_.empty()) give(pid_);
  if (what == Paint::kNot) return;
  if (!read_terminal(screen_.get(), &now)) return screen_.reset();
  const uint16_t other = painted_.rows > 1 ? painted_.rows - 1 : painted_.rows + 1;
  if (what == Paint::kBegin) {
    if (hears_continue_) kill(pid_, SIGCONT);
    if (!hears_window_) return screen_.reset();
    const bool changed = now.rows != painted_.rows || now.columns != painted_.columns;
    if (changed || now.rows == 0) {
      kill(pid_, SIGWINCH);
      return screen_.reset();
    }
    painted_ = now;
    now.rows = other;
    (void)set_window(screen_.get(), now);  // tells the foreground group
    paint_ = Paint::kBack;
    due_ns_ = in_ms(kSettleMs);
    return;
  }
  if (!has_dealt_with(pid_, SIGWINCH) && ++tries_ < kMostTries) {
    paint_ = Paint::kBack;
    due_ns_ = in_ms(kSettleMs / 2);
    return;
  }
  // Unless it has really changed meanwhile.
  if (now.rows == other && now.columns == painted_.columns) {
    (void)set_window(screen_.get(), painted_);
  }
  screen_.reset();
}

void OuterTerminal::stopping(pid_t pid) {
  const pid_t group = getpgid(pid);
  for (const Found& f : found_) {
    own_group_ = own_group_ || (group != getpgrp() && tcgetpgrp(f.open().get()) == group);
  }
}

void OuterTerminal::continued(pid_t pid) { give(pid); }

void OuterTerminal::ended(bool by_signal) {
  if (paint_ == Paint::kBack) {
    tries_ = kMostTries;
    step();
  }
  paint_ = Paint::kNot;
  due_ns_ = ~uint64_t{0};
  for (const Found& f : found_) {
    const os::Fd fd = f.open();
    if (!fd) continue;
    const pid_t group = tcgetpgrp(fd.get());
    if (group > 0 && group != getpgrp() && kill(-group, 0) != 0 && errno == ESRCH) {
      const FromBackground unstopped;
      (void)tcsetpgrp(fd.get(), getpgrp());
    }
    if ((by_signal || was_restored_) && in_front(fd.get())) (void)set_modes(fd.get(), f.before);
  }
  wanted_.clear();
  own_group_ = was_restored_ = false;
}

std::string put_modes_back(const format::ImageView& image, int pidfd) {
  for (uint32_t i = 0; i < image.files.size(); i++) {
    const TerminalState* s = state_of_terminal(image, image.files[i]);
    const bool background = s == nullptr || ((s->flags & format::kTerminalControlling) != 0 &&
                                             (s->flags & format::kTerminalForeground) == 0);
    const os::Fd fd = background ? os::Fd() : of_program(image, i, pidfd);
    TerminalState now;
    if (!fd || !read_terminal(fd.get(), &now) || same_modes(now, *s)) continue;
    if (!set_modes(fd.get(), *s)) return "a terminal's modes cannot be set";
  }
  return "";
}

}  // namespace cr::agent
