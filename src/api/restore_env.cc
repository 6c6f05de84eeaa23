// SPDX-License-Identifier: MIT
// restore_env.cc - crrestore_env(): what crrestore was given by --env.
// Invariant: the text is the agent's, in shared memory, and ends inside it.
// Context: N.
#include <checkpoint_restore.h>
#include <string.h>

#include "control/control.h"
#include "rawsys/rawsys.h"

using namespace cr;

extern "C" const char* crrestore_env(const char* name) {
  const control::State& st = control::state();
  if (name == nullptr || st.owner_pid != rawsys::sys_getpid() || st.channel == nullptr) {
    return nullptr;
  }
  const char* at = st.channel->restore_env;
  const char* const end = at + sizeof(st.channel->restore_env) - 1;
  const size_t length = strlen(name);
  for (; at < end && *at != 0; at += strnlen(at, static_cast<size_t>(end - at)) + 1) {
    if (strncmp(at, name, length) == 0 && at[length] == '=') return at + length + 1;
  }
  return nullptr;
}
