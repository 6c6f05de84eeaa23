// SPDX-License-Identifier: MIT
// crtop_screen.h - a View as a screen or as a line.
// Invariant: text of a program cannot control the terminal; no line is wider than it. leave() gives
// the terminal back as enter() found it.
// Context: N.
#pragma once

#include <termios.h>

#include <string>
#include <vector>

#include "tools/crtop_session.h"

namespace cr::tools {

class Screen {
 public:
  // Standard output is a terminal that knows the escape sequences of ECMA-48.
  static bool usable();
  ~Screen() { leave(); }
  void enter();
  void leave();
  void draw(const View& view);

 private:
  bool entered_ = false, keys_ = false;
  termios old_{};
};

// For those without a terminal.
std::string line_of(const View& view);
std::vector<std::string> lines_of(const View& view, int columns, bool unicode);
// One character for each of the newest pauses; failed attempts are x.
std::string sparkline(const std::vector<format::HistoryRecord>& records, size_t width,
                      bool unicode);

}  // namespace cr::tools
