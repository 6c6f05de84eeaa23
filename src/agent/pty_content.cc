// SPDX-License-Identifier: MIT
// pty_content.cc - see pty_content.h. Invariant: as there. Context: N (agent).
#include "agent/pty_content.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "agent/terminal.h"

namespace cr::agent {
namespace {

using format::PtyLine;
using format::TerminalState;

constexpr size_t kMostInLine = 4095;  // that the kernel's line discipline holds
constexpr uint8_t kQuote = 0x16, kEnd = 4;
constexpr int kPatienceMs = 1000;

class Nonblocking {
 public:
  explicit Nonblocking(int fd) : fd_(fd), before_(fd < 0 ? 0 : fcntl(fd, F_GETFL)) {
    if (fd_ >= 0) fcntl(fd_, F_SETFL, before_ | O_NONBLOCK);
  }
  ~Nonblocking() {
    if (fd_ >= 0) fcntl(fd_, F_SETFL, before_);
  }
  Nonblocking(const Nonblocking&) = delete;
  Nonblocking& operator=(const Nonblocking&) = delete;

 private:
  int fd_, before_;
};

// When there is nothing the kernel first brings what is still on its way.
bool is_ready(int fd, short what, int timeout_ms = 0) {
  pollfd p{fd, what, 0};
  return poll(&p, 1, timeout_ms) > 0 && (p.revents & what) != 0;
}

void wait_a_little() {
  const timespec t{0, 200000};
  nanosleep(&t, nullptr);
}

bool read_all(int fd, std::string* ret) {
  char piece[8192];
  while (is_ready(fd, POLLIN)) {
    const ssize_t n = read(fd, piece, sizeof(piece));
    if (n < 0) return errno == EIO;  // the other end is closed, and this was all
    if (n == 0) break;
    ret->append(piece, static_cast<size_t>(n));
  }
  return true;
}

// Modes in which bytes are taken as they are.
TerminalState plain_modes(const TerminalState& of, bool canonical) {
  TerminalState s = of;
  s.input_modes = 0;
  s.output_modes = of.output_modes & ~static_cast<uint32_t>(OPOST);
  s.local_modes = canonical ? ICANON | IEXTEN : 0;
  memset(s.characters, 0, sizeof(s.characters));
  if (canonical) {
    s.characters[VLNEXT] = kQuote;
    s.characters[VEOF] = kEnd;
  } else {
    s.characters[VMIN] = 1;
  }
  return s;
}

bool ends_line(uint8_t c, const TerminalState& s) {
  return c == '\n' || (c != 0 && (c == s.characters[VEOL] || c == s.characters[VEOL2]));
}

// Each read gives a line; what is still being edited is shown by no other means than by leaving
// canonical mode.
bool take_lines(int slave, const TerminalState& modes, PtyContent* ret) {
  char line[8192];
  while (is_ready(slave, POLLIN)) {
    const ssize_t n = read(slave, line, sizeof(line));
    if (n < 0) return errno == EIO;
    const bool ended = n > 0 && ends_line(static_cast<uint8_t>(line[n - 1]), modes);
    ret->input.append(line, static_cast<size_t>(n));
    ret->lines.push_back(
        {static_cast<uint32_t>(n), ended ? format::kPtyLineEnded : format::kPtyLineEof});
  }
  return true;
}

bool take_rest(int slave, PtyContent* ret) {
  const size_t before = ret->input.size();
  const bool good = read_all(slave, &ret->input);
  const size_t n = ret->input.size() - before;
  if (n > 0) ret->lines.push_back({static_cast<uint32_t>(n), format::kPtyLineOpen});
  return good;
}

bool write_all(int fd, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR && !is_ready(fd, POLLOUT, kPatienceMs)) {
      errno = ENOSPC;
      return false;
    }
  }
  return true;
}

// Until so many bytes can be read from the slave.
bool wait_for_input(int slave, size_t bytes) {
  for (int i = 0; i < kPatienceMs * 5; i++) {
    int n = 0;
    if (ioctl(slave, FIONREAD, &n) != 0) return false;
    if (static_cast<size_t>(n) >= bytes) return true;
    wait_a_little();
  }
  errno = ETIMEDOUT;
  return false;
}

// How the line has to be written so that nothing in it is taken for a command.
std::string quoted(const std::string& body, const TerminalState& plain) {
  std::string out;
  for (const char c : body) {
    const auto u = static_cast<uint8_t>(c);
    if (u == kQuote || u == kEnd || ends_line(u, plain)) out.push_back(kQuote);
    out.push_back(c);
  }
  return out;
}

bool put_line(int master, int slave, const TerminalState& plain, const std::string& text,
              uint32_t end) {
  TerminalState modes = plain;
  std::string body = text;
  std::string last;
  if (end == format::kPtyLineEof) last.push_back(kEnd);
  if (end == format::kPtyLineEnded) {
    last.push_back(body.back());
    body.pop_back();
    if (last[0] != '\n') modes.characters[VEOL] = static_cast<uint8_t>(last[0]);
  }
  return set_modes(slave, modes) && write_all(master, quoted(body, modes) + last);
}

// A line that is being edited cannot be counted; its echo tells that all of it has arrived.
bool put_open_line(int master, int slave, const TerminalState& plain, const std::string& text) {
  TerminalState modes = plain;
  modes.local_modes |= ECHO;
  if (!set_modes(slave, modes) || !write_all(master, quoted(text, modes))) return false;
  std::string echo;
  for (int i = 0; i < kPatienceMs * 5 && echo.size() < text.size(); i++) {
    if (!read_all(master, &echo)) return false;
    if (echo.size() < text.size()) wait_a_little();
  }
  errno = ETIMEDOUT;
  return echo.size() == text.size();
}

bool put_lines(int master, int slave, const TerminalState& plain, const PtyContent& content) {
  size_t at = 0, whole = 0;
  for (const PtyLine& l : content.lines) {
    const std::string text = content.input.substr(at, l.bytes);
    at += l.bytes;
    if (l.end == format::kPtyLineOpen) {
      if (!put_open_line(master, slave, plain, text)) return false;
      continue;
    }
    whole += l.bytes;
    if (!put_line(master, slave, plain, text, l.end) || !wait_for_input(slave, whole)) return false;
    if (l.end == format::kPtyLineEof) {  // which is not counted
      for (int i = 0; i < 10; i++) wait_a_little();
    }
  }
  return true;
}

bool put_input(int master, int slave, const TerminalState& modes, const PtyContent& content) {
  const bool canonical = is_canonical(modes);
  const TerminalState plain = plain_modes(modes, canonical);
  if (!set_modes(slave, plain)) return false;
  if (canonical) return put_lines(master, slave, plain, content);
  return write_all(master, content.input) &&
         wait_for_input(slave, std::min(content.input.size(), kMostInLine));
}

bool put_output(int slave, const TerminalState& modes, const PtyContent& content) {
  TerminalState plain = modes;
  plain.output_modes &= ~static_cast<uint32_t>(OPOST);
  return set_modes(slave, plain) && write_all(slave, content.output);
}

// Stopped by a character, tcflow() alone does not start it; nor the other way round.
bool start_output(int slave, uint32_t* ret_stopped) {
  if (is_ready(slave, POLLOUT)) return true;
  if (ioctl(slave, TCXONC, TCOON) != 0) return false;
  *ret_stopped = is_ready(slave, POLLOUT) ? format::kPtyHeld : format::kPtyStopped;
  return ioctl(slave, TCXONC, TCOOFF) == 0 && ioctl(slave, TCXONC, TCOON) == 0;
}

bool stop_output(int master, int slave, const TerminalState& modes, uint32_t stopped) {
  if (stopped == 0) return true;
  if (stopped == format::kPtyHeld) return ioctl(slave, TCXONC, TCOOFF) == 0;
  constexpr uint8_t kStop = 0x13;
  TerminalState with_stop = modes;
  with_stop.input_modes |= IXON;
  with_stop.characters[VSTOP] = kStop;
  const std::string stop(1, static_cast<char>(kStop));
  if (!set_modes(slave, with_stop) || !write_all(master, stop)) return false;
  for (int i = 0; i < kPatienceMs * 5 && is_ready(slave, POLLOUT); i++) wait_a_little();
  return set_modes(slave, modes) && !is_ready(slave, POLLOUT);
}

}  // namespace

bool take_content(int master, int slave, const TerminalState& modes, PtyContent* ret) {
  const Nonblocking one(master), other(slave);
  *ret = {};
  if (!read_all(master, &ret->output) || !start_output(slave, &ret->stopped) ||
      !read_all(master, &ret->output)) {
    return false;
  }
  bool good = !is_canonical(modes) || take_lines(slave, modes, ret);
  TerminalState each = modes;
  each.local_modes &= ~static_cast<uint32_t>(ICANON);
  each.characters[VMIN] = 1;
  each.characters[VTIME] = 0;
  good = good && set_modes(slave, each) && take_rest(slave, ret);
  return set_modes(slave, modes) && good;
}

bool put_content(int master, int slave, const TerminalState& modes, const PtyContent& content) {
  const Nonblocking one(master), other(slave);
  bool good = content.input.empty() && content.lines.empty();
  if (!good) good = put_input(master, slave, modes, content);
  if (good && !content.output.empty()) good = put_output(slave, modes, content);
  const int e = errno;
  const bool set = set_modes(slave, modes);
  if (good && set) good = stop_output(master, slave, modes, content.stopped);
  if (!good) errno = e;
  return good && set;
}

}  // namespace cr::agent
