// SPDX-License-Identifier: MIT
// preload.cc - the constructor of libcrpreload.so: joins the session of crrun, or becomes the
// restored program.
// Invariant: in a process that is not the session's own (a child that inherited the environment)
// nothing happens.
// Context: N, before main().
#include <stdlib.h>
#include <unistd.h>

#include "api/session.h"
#include "interpose/take_over.h"

namespace {

__attribute__((constructor)) void enter() {
  const char* dir = getenv("CR_SESSION");
  const char* pid = getenv("CR_SESSION_PID");
  if (dir == nullptr || pid == nullptr) return;
  if (strtol(pid, nullptr, 10) != static_cast<long>(getpid())) return;
  if (getenv("CR_SESSION_RESTORE") != nullptr) cr::interpose::take_over(dir);
  // The agent notices by itself when nobody attaches, and says so; the program just runs.
  (void)!cr::api::join_session(dir);
}

}  // namespace
