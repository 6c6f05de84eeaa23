// SPDX-License-Identifier: MIT
// pty_content.h - what lies in a pseudoterminal and was not read yet: it can only be taken out, and
// put in again.
// Invariant: while it is out nobody else uses the pseudoterminal; put in again, either end reads
// what it would have read, in the same pieces.
// Context: N (agent), while the program is stopped. Doc: docs/ARCHITECTURE.md, "Terminals".
#pragma once

#include <string>
#include <vector>

#include "format/image.h"

namespace cr::agent {

struct PtyContent {
  std::string input;                   // for the slave
  std::vector<format::PtyLine> lines;  // of input
  std::string output;                  // for the master
  uint32_t stopped = 0;                // output: kPtyStopped, kPtyHeld
};

// modes: of the terminal, which stay. Packet mode must be off; output goes on. false: errno.
bool take_content(int master, int slave, const format::TerminalState& modes, PtyContent* ret);
// modes: that it has afterwards, whatever it has now. The pseudoterminal is empty.
bool put_content(int master, int slave, const format::TerminalState& modes,
                 const PtyContent& content);

}  // namespace cr::agent
