// SPDX-License-Identifier: MIT
// terminal.cc - see terminal.h. Invariant: as there. Context: N (agent).
#include "agent/terminal.h"

#include <asm/termbits.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "os/proc.h"

namespace cr::agent {

using format::TerminalState;

FromBackground::FromBackground() {
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, SIGTTOU);
  pthread_sigmask(SIG_BLOCK, &s, &before_);
}

FromBackground::~FromBackground() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

bool read_terminal(int fd, TerminalState* ret) {
  termios2 t{};
  winsize w{};
  if (ioctl(fd, TCGETS2, &t) != 0 || ioctl(fd, TIOCGWINSZ, &w) != 0) return false;
  *ret = {};
  ret->input_modes = t.c_iflag;
  ret->output_modes = t.c_oflag;
  ret->control_modes = t.c_cflag;
  ret->local_modes = t.c_lflag;
  ret->line = t.c_line;
  static_assert(sizeof(t.c_cc) == sizeof(ret->characters));
  memcpy(ret->characters, t.c_cc, sizeof(ret->characters));
  ret->input_speed = t.c_ispeed;
  ret->output_speed = t.c_ospeed;
  ret->rows = w.ws_row;
  ret->columns = w.ws_col;
  ret->x_pixels = w.ws_xpixel;
  ret->y_pixels = w.ws_ypixel;
  return true;
}

bool set_modes(int fd, const TerminalState& s) {
  termios2 t{};
  t.c_iflag = s.input_modes;
  t.c_oflag = s.output_modes;
  t.c_cflag = s.control_modes;
  t.c_lflag = s.local_modes;
  t.c_line = s.line;
  memcpy(t.c_cc, s.characters, sizeof(t.c_cc));
  t.c_ispeed = s.input_speed;
  t.c_ospeed = s.output_speed;
  const FromBackground unstopped;
  return ioctl(fd, TCSETS2, &t) == 0;
}

bool set_window(int fd, const TerminalState& s) {
  const winsize w{s.rows, s.columns, s.x_pixels, s.y_pixels};
  const FromBackground unstopped;
  return ioctl(fd, TIOCSWINSZ, &w) == 0;
}

bool same_modes(const TerminalState& a, const TerminalState& b) {
  return memcmp(&a, &b, offsetof(TerminalState, rows)) == 0;
}

bool is_canonical(const TerminalState& s) { return (s.local_modes & ICANON) != 0; }

uint32_t terminal_device(int fd) {
  uint32_t device = 0;
  return ioctl(fd, TIOCGDEV, &device) == 0 ? device : 0;
}

const TerminalState* state_of_terminal(const format::ImageView& image,
                                       const format::FileRecord& f) {
  if (f.kind != format::kFileTerminal || f.content.bytes == 0) return nullptr;
  return &image.states<TerminalState>(f.content).front();
}

Trouble describe_terminal(const Program& program, const Descriptor& d, format::FileRecord& f) {
  const os::Fd copy = program.copy_of(d.fd);
  auto stat = os::read_stat(program.pid, program.tid);
  TerminalState s{};
  if (!copy || !stat || !read_terminal(copy.get(), &s)) return {};            // hung up
  const bool by_name = major(d.st.st_rdev) == 5 && minor(d.st.st_rdev) == 0;  // /dev/tty
  const bool controlling =
      stat->tty_major != 0 && (by_name || (stat->tty_major == major(d.st.st_rdev) &&
                                           stat->tty_minor == minor(d.st.st_rdev)));
  if (controlling) s.flags |= format::kTerminalControlling;
  if (controlling && stat->foreground == stat->pgid) s.flags |= format::kTerminalForeground;
  if (f.std_fd < 0 && !controlling && major(d.st.st_rdev) == 4) {
    return refuse(d, "a line that is not the program's own terminal", "close it");
  }
  set_state(program, f, s);
  return {};
}

std::string needs_terminal(const SavedFile& f, int instead) {
  const TerminalState* s = state_of_terminal(f.image, f.file);
  TerminalState now;
  if (s == nullptr || (s->flags & format::kTerminalForeground) == 0 || is_canonical(*s)) return "";
  if (instead >= 0 && read_terminal(instead, &now)) return "";
  const std::string place = f.file.std_fd < 0 ? "there is none here"
                                              : "descriptor " + std::to_string(f.file.std_fd) +
                                                    " of crrestore, which takes its place, is none";
  return f.name + ": the program reads single keys from its terminal, and " + place +
         "; run crrestore in a terminal (script -qc 'crrestore IMAGE.dir' /dev/null makes one)";
}

}  // namespace cr::agent
