// SPDX-License-Identifier: MIT
// terminal.h - modes and window of a terminal: reading them, setting them, and what an image says
// of a terminal that is not the program's own.
// Invariant: setting modes never stops the caller, whichever group the terminal has in front.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Terminals".
#pragma once

#include <signal.h>
#include <stdint.h>

#include <string>

#include "agent/kinds.h"

namespace cr::agent {

// While it lives the kernel does not stop us for using a terminal from the background.
class FromBackground {
 public:
  FromBackground();
  ~FromBackground();
  FromBackground(const FromBackground&) = delete;
  FromBackground& operator=(const FromBackground&) = delete;

 private:
  sigset_t before_;
};

// false: it is no terminal, or hung up. flags stay 0.
bool read_terminal(int fd, format::TerminalState* ret);
bool set_modes(int fd, const format::TerminalState& s);
bool set_window(int fd, const format::TerminalState& s);
bool same_modes(const format::TerminalState& a, const format::TerminalState& b);
// Input comes line by line.
bool is_canonical(const format::TerminalState& s);

// Which terminal it is, also through /dev/tty; 0: none.
uint32_t terminal_device(int fd);

// What is kept of a terminal of the outside; nullptr: nothing (an old image, or it was hung up).
const format::TerminalState* state_of_terminal(const format::ImageView& image,
                                               const format::FileRecord& f);

// describe_files() has found a terminal that is not one of the program's own.
Trouble describe_terminal(const Program& program, const Descriptor& d, format::FileRecord& f);

// Why the program cannot do with that descriptor in the place of its terminal; "" if it can.
std::string needs_terminal(const SavedFile& f, int instead);

}  // namespace cr::agent
