// SPDX-License-Identifier: MIT
// progress.h - shows how far something has got: a bar on a terminal, plain lines elsewhere.
// Invariant: on a terminal at most ten redraws in a second, elsewhere at most one line in a second
// and one at the end. The line is ended before anybody else writes, if end() is called.
// Context: N.
#pragma once

#include <stdint.h>
#include <stdio.h>

#include <string>

namespace cr::tools {

class Progress {
 public:
  // stream: where it goes; what is said begins with the tool's name.
  Progress(const char* tool, FILE* stream);

  // phase: a word such as "writing"; another one begins anew. total 0: not known.
  void update(const std::string& phase, uint64_t done, uint64_t total);
  // The last line.
  void end();

 private:
  std::string text(uint64_t now_ns, int columns) const;
  int columns() const;
  void draw(const std::string& line, uint64_t now_ns);

  const char* tool_;
  FILE* stream_;
  bool terminal_;
  std::string phase_;
  std::string closing_;  // the line of the last phase whose end was known
  uint64_t done_ = 0, total_ = 0;
  uint64_t begun_ns_ = 0, shown_ns_ = 0;  // of the phase; when something was last shown
  size_t drawn_ = 0;                      // characters on the terminal's line
};

// "45 %, 1.2 GiB of 2.6 GiB, 850.0 MiB/s, 2 s left". seconds: since the phase began.
std::string progress_words(uint64_t done, uint64_t total, double seconds);

}  // namespace cr::tools
