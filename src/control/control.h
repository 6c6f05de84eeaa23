// SPDX-License-Identifier: MIT
// control.h - the control thread: attaches to the agent, copies pages while the world is stopped,
// carries API requests to the agent and the answers back.
// Invariant: the control thread blocks all signals, owns a descriptor table of its own, uses no
// libc and no TLS, and holds no lock while it waits.
// Context: start/request functions N; the thread itself N and S.
// Doc: docs/ARCHITECTURE.md, "The control thread".
#pragma once

#include <stdint.h>

#include "base/base.h"
#include "format/channel.h"
#include "format/plugins.h"
#include "format/semaphores.h"

namespace cr::control {

inline constexpr uint32_t kDetached = 0;  // no session
inline constexpr uint32_t kStarting = 1;
inline constexpr uint32_t kAttached = 2;
inline constexpr uint32_t kFailed = 3;  // could not attach: start_error
inline constexpr uint32_t kAgentGone = 4;

// One per process; lives in the library's data, so it is saved and restored with the process.
struct State : format::ControlHead {
  int32_t owner_pid;  // the process it belongs to; a fork child has none
  Errc start_code;
  uint64_t next_id;                      // ids given to API requests
  uint64_t wanted[format::kAskKinds];    // newest id asked for, by Ask
  uint64_t sent[format::kAskKinds];      // newest id the agent was told
  uint64_t answered[format::kAskKinds];  // newest id answered
  uint64_t restored_up_to;  // requests up to here were in flight at the checkpoint that came back
  struct LastAnswer {
    int32_t code, sys_errno;
    char text[512];
  } answers[format::kAskKinds];  // each kind's own: one that waits long does not see another's
  // Hooks for checkpoints that the program did not ask for: its hook thread waits on hooks_wanted.
  uint32_t hook_threads;  // 1: there is one
  uint32_t hooks_wanted;  // futex
  uint32_t hooks_done;    // futex
  uint32_t hook_when;
  bool caller_waiting;     // a checkpoint() call was under way when this was saved
  double wanted_interval;  // 0: nothing to tell
  uint64_t epoch;          // of this incarnation
  format::ChannelHeader* channel;
  char start_text[512];
  uint32_t wanted_close, wanted_leave;
  uint64_t heap_words[2];  // for Hello: set before start()
};

State& state();

// Of a process that has no control thread yet. What its memory says was under way was another's:
// that of the process it was forked from.
inline void forget_parent(State& st, int32_t pid) {
  for (uint32_t i = 0; i < format::kAskKinds; i++) {
    st.wanted[i] = st.sent[i] = st.answered[i] = st.next_id;
  }
  st.channel = nullptr;
  st.hook_threads = 0;
  st.caller_waiting = false;
  st.wanted_close = st.wanted_leave = 0;
  st.wanted_interval = 0;
  st.start_code = Errc::kOk;
  st.start_text[0] = 0;
  st.owner_pid = pid;
}

// Other processes of a tree have no control thread until the agent makes one, which it can from
// here on. Context: N, or a constructor.
void allow_joining();

// Start the control thread for the session in session_dir (absolute path, copied) and wait until it
// is attached. Context: N.
Result<void> start(const char* session_dir);

// Is there a session in *this* process (false in fork children)?
bool attached();

// Are there mappings in which the kernel counts writes (kTrackerUserfaultfd), or may the next
// checkpoint make some? The kernel does not join such a one with another.
bool tracks_mappings();

using format::Ask;
struct Answer {
  bool restored;  // the calling thread is in a restored process
  Errc code;
  int sys_errno;
};
// Ask the agent and wait for its answer. `ret_text` gets the reason of a failure. Context: N.
Answer ask(Ask what, char* ret_text, size_t text_cap);
// In a process that was just restored: until its control thread has attached, or could not.
void await_attached();
// Why the agent answers no more, after kAgentGone.
const char* gone_text();

// End the session: the agent and the control thread end. Bounded: 5 s. Context: N.
void close();

// Ends the control thread, if it is the only one beside the caller: for system calls that the
// kernel refuses to a process with several threads. False: it is not there, or not alone with the
// caller.
// To be followed by come_back(), or by allow_joining(): the next checkpoint has the agent make it
// again then, as in a child. Context: N.
bool give_way();
void come_back();

// Tell the agent a new interval. Context: N.
void set_interval(double seconds);

// Memory left out of checkpoints; guarded by the API's own lock.
format::Exclusions& exclusions();

// What plug-ins have registered; guarded by the API's own lock.
format::PluginTable& plugins();

// What the wrappers of System V semaphores have noted; guarded by its own lock.
format::SemaphoreTable& semaphores();

// What the agent must know about this library's memory.
struct Addresses {
  uint64_t report_entry, report_stack_top, resume_entry, resume_end;
  uint64_t control_entry, control_stack_top, state, state_bytes;
  uint64_t library_start, library_end;  // whole pages
};
Addresses addresses();

}  // namespace cr::control
