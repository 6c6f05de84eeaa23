// SPDX-License-Identifier: MIT
// agent_start.h - starting cragent for a program that called crinit() by itself.
// Invariant: the helper leaves no child, no SIGCHLD and no descriptor behind in the program.
// Context: N.
#pragma once

#include "base/base.h"

namespace cr::api {

struct AgentOptions {
  const char* image_dir;  // absolute
  double interval_seconds;
  uint64_t staging_bytes;
  uint32_t durable;
  uint32_t track;             // enum crtracker
  const char* heap = "none";  // "open", "create", "read": a session of the heap alone
  // As crattr has them; "": default.
  const char* protect = "";
  const char* name = "";
  uint64_t flush_every = 0;
  double flush_interval_seconds = 0;
  const char* store_socket = "";
};

// Starts the agent and waits until it listens. ret_text gets the agent's own words on failure.
Result<void> start_agent(const AgentOptions& options, char* ret_text, size_t text_cap);

// Path of a program installed beside the library ("libexec/checkpoint_restore/cragent",
// "bin/crrestore"), or of $CR_AGENT for the agent. false if it does not exist.
bool beside_library(const char* relative, char* out, size_t cap);

}  // namespace cr::api
