// SPDX-License-Identifier: MIT
// pipe_content.h - what is in a pipe, which stays there. Context: N (agent).
#pragma once

#include <string>

namespace cr::agent {

// false: it cannot be read.
bool peek_pipe(int read_end, std::string* ret);

}  // namespace cr::agent
