// SPDX-License-Identifier: MIT
// outer_terminal.h - the terminal in which crrun or crrestore runs, and which the program uses: its
// modes, who is in its foreground, and what makes the program paint a terminal that is new to it.
// Invariant: a terminal that has another job in its foreground is left alone; when the program is
// gone the terminal has the modes with which we found it, unless the program left others by itself.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Terminals".
#pragma once

#include <sys/types.h>

#include <vector>

#include "format/image_reader.h"
#include "os/fd.h"

namespace cr::agent {

class OuterTerminal {
 public:
  // ours: we are the program's parent, and its terminal is ours (not so for cragent).
  explicit OuterTerminal(bool ours);
  // A program is about to be brought to this terminal from an image.
  void expect_restored() { was_restored_ = true; }
  // The program of the image is there again, with all its descriptors, and does not run yet.
  void restored(const format::ImageView& image, pid_t pid, int pidfd);
  // We are about to stop because the program has, and run again.
  void stopping(pid_t pid);
  void continued(pid_t pid);
  // The program has ended; by_signal: it had no say in how it leaves the terminal.
  void ended(bool by_signal);

  // How long to wait at most for something else; 0: step() is due. -1: for ever.
  int timeout_ms(int otherwise) const;
  void step();

 private:
  struct Found {  // a terminal of ours; we don't hold it open
    uint32_t device;
    format::TerminalState before;
    os::Fd open() const;
  };
  struct Wanted {  // the program's, as the image has it
    os::Fd fd;
    format::TerminalState state;
  };
  enum class Paint { kNot, kBegin, kBack };

  bool in_front(int fd) const;
  void give(pid_t pid);
  void look_at_handlers(const format::ImageView& image);
  void begin_painting(int fd);

  bool ours_, was_restored_ = false;
  std::vector<Found> found_;
  std::vector<Wanted> wanted_;       // not given yet
  bool own_group_ = false;           // the program's group is not ours, and had the foreground
  os::Fd screen_;                    // where the program paints
  format::TerminalState painted_{};  // what it had been
  bool hears_window_ = false, hears_continue_ = false;
  Paint paint_ = Paint::kNot;
  int tries_ = 0;
  pid_t pid_ = 0;
  uint64_t due_ns_ = ~uint64_t{0};
};

// restore() in place: the modes of the program's terminals. "" or what cannot be done.
std::string put_modes_back(const format::ImageView& image, int pidfd);

}  // namespace cr::agent
