// SPDX-License-Identifier: MIT
// fault.cc - see fault.h. Invariant: as there. Context: N.
#include "os/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>

namespace cr::os {
namespace {

constexpr const char* kNames[] = {"copied_early",
                                  "before_stop",
                                  "stopped",
                                  "threads_asked",
                                  "threads_described",
                                  "helping",
                                  "captured",
                                  "resumed",
                                  "answered",
                                  "lock_cleared",
                                  "lock_cleared_synced",
                                  "pages_half",
                                  "pages_written",
                                  "metadata_written",
                                  "payload_synced",
                                  "committed",
                                  "committed_synced",
                                  "restore_planned",
                                  "restore_exec",
                                  "restore_taken",
                                  "restore_attached",
                                  "rollback_planned",
                                  "rollback_mapped",
                                  "rollback_filled",
                                  "rollback_done",
                                  "part_locked",
                                  "part_received",
                                  "part_written",
                                  "part_committed",
                                  "part_answered",
                                  "offers_sent",
                                  "rows_sent",
                                  "commit_sent",
                                  "own_committed",
                                  "transfer_settled",
                                  "image_made"};
static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<size_t>(FaultPoint::kCount));

constexpr struct {
  const char* name;
  int error;
} kErrors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EROFS", EROFS}};

struct Armed {
  int point = -1;
  long nth = 0;
  bool agent = true, program = true;  // who is ended
  int error = 0;                      // to fail with; 0: to die
  bool hang = false;                  // there for ever
  bool halt = false;                  // the whole process, until somebody continues it
};

Armed read_environment() {
  Armed a;
  const char* s = getenv("CR_FAULT");
  if (s == nullptr) return a;
  const char* colon = strchr(s, ':');
  const size_t n = colon != nullptr ? static_cast<size_t>(colon - s) : strlen(s);
  for (int i = 0; i < static_cast<int>(FaultPoint::kCount); i++) {
    if (strlen(kNames[i]) == n && strncmp(kNames[i], s, n) == 0) a.point = i;
  }
  char* end = nullptr;
  a.nth = colon != nullptr ? strtol(colon + 1, &end, 10) : 1;
  if (end != nullptr && *end == '=') {
    a.hang = strcmp(end + 1, "hang") == 0;
    a.halt = strcmp(end + 1, "halt") == 0;
    for (const auto& [name, error] : kErrors) {
      if (strcmp(end + 1, name) == 0) a.error = error;
    }
  }
  const char* scope = getenv("CR_FAULT_SCOPE");
  if (scope != nullptr) {
    a.program = strcmp(scope, "agent") != 0;
    a.agent = strcmp(scope, "program") != 0;
  }
  return a;
}

pid_t g_victim = 0;

}  // namespace

const char* name_of(FaultPoint p) { return kNames[static_cast<int>(p)]; }

void set_fault_victim(pid_t pid) { g_victim = pid; }

int fault_error(FaultPoint p) {
  static const Armed armed = read_environment();
  static std::atomic<long> reached = 0;  // of that point, by any thread
  if (armed.point != static_cast<int>(p)) return 0;
  const long nth = ++reached;
  if (armed.error != 0) return nth == armed.nth ? armed.error : 0;
  const bool once = armed.hang || armed.halt || !armed.agent;  // others are there afterwards
  if (nth < armed.nth || (once && nth != armed.nth)) return 0;
  if (armed.halt) {
    (void)raise(SIGSTOP);
    return 0;
  }
  if (!armed.hang) {
    if (armed.program && g_victim > 0) kill(g_victim, SIGKILL);
    if (!armed.agent) return 0;
    kill(getpid(), SIGKILL);
  }
  for (;;) pause();
}

void fault_point(FaultPoint p) { (void)fault_error(p); }

}  // namespace cr::os
