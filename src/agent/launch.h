// SPDX-License-Identifier: MIT
// launch.h - starts programs: fresh ones under the preload library, and the process that becomes a
// restored one, with its old process id.
// Invariant: descriptors above 2 of the agent do not reach the program; its signal mask and
// dispositions are those the agent was started with.
// Context: N (agent).
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "agent/restore_plan.h"
#include "agent/time_namespace.h"
#include "agent/world.h"
#include "os/fd.h"

namespace cr::agent {

enum class Ids { kAuto, kSame, kNamespace, kNew };

struct Launched {
  pid_t pid = 0;     // the program, in our namespace
  pid_t waiter = 0;  // our child: the program, or the first process of its namespace
  os::Fd status;     // namespace: the program's wait status is read here
};

// Signal state as it was when the tool started, for the program.
struct SignalState {
  sigset_t mask;
  struct sigaction actions[65];
};
void save_signal_state(SignalState* ret);
void restore_signal_state(const SignalState& s);

struct StartOptions {
  std::string preload;      // path of libcrpreload.so
  std::string plugins;      // further objects to be loaded, each with a colon before it
  std::string session_dir;  // absolute
  SignalState signals;
  Clock clock = Clock::kAuto;  // of a restored program
};

// Can the program be checkpointed at all? Resolves argv0 by PATH. Exit codes 126, 127 or 125 in
// ret_status with words on failure.
Trouble check_program(const std::string& argv0, std::string* ret_path, int* ret_status);

Trouble launch_fresh(const StartOptions& options, const std::string& path,
                     const std::vector<std::string>& argv, Launched* ret);

// Makes the process for plan; it will connect and ask for it (kMessageTake).
Trouble launch_restored(const StartOptions& options, RestorePlan& plan, Ids ids, Launched* ret);

// A descriptor of the slave of a restored pseudoterminal, by its number in the image; -1: none.
using TerminalOf = std::function<int(uint32_t number)>;

// Of several processes: rows as in the image, plans by row, nullptr for what has ended.
// ret->pid: any of them.
Trouble launch_tree(const StartOptions& options, std::span<const format::TreeRecord> rows,
                    const std::vector<RestorePlan*>& plans, const TerminalOf& terminal_of, Ids ids,
                    Launched* ret);

// The environment in which a program takes over: for exec by restore().
std::vector<std::string> restore_environment(const StartOptions& options,
                                             const std::vector<std::string>& original,
                                             pid_t inner_pid);

// Path of a file installed beside the running tool (../lib/libcrpreload.so ...); "" if missing.
std::string beside_tool(const char* relative);

}  // namespace cr::agent
