// SPDX-License-Identifier: MIT
// session.h - what the preload library's constructor and the API share.
// Invariant: at most one session per process. Context: N.
#pragma once

#include "base/base.h"

namespace cr::api {

// From here on the agent can make this process a member of the session, if it is none.
void prepare_to_join();

// Attach to an agent that listens in dir already (crrun).
Result<void> join_session(const char* dir);

}  // namespace cr::api
