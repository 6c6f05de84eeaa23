// SPDX-License-Identifier: MIT
// preload.cc - the constructor of libcrpreload.so: joins the session of crrun, or becomes the
// restored program.
// Invariant: in a process that is not the session's own (a child that inherited the environment)
// nothing happens here but that files which it changes are kept. (malloc.cc needs no constructor,
// and works in any process.)
// Context: N, before main().
#include <stdlib.h>
#include <unistd.h>

#include "api/session.h"
#include "control/control.h"
#include "interpose/journal.h"
#include "interpose/malloc.h"
#include "interpose/mode.h"
#include "interpose/take_over.h"

constinit const void* cr::interpose::g_heap_word = nullptr;

namespace {

// The agent leaves the pages of the heap that hold no block out of the image.
void announce_heap() {
  void* volatile first = malloc(1);  // makes the heap if nobody has allocated yet
  free(first);
  cr::control::state().heap_words[1] = reinterpret_cast<uint64_t>(cr::interpose::g_heap_word);
}

__attribute__((constructor)) void enter() {
  cr::interpose::warn_of_unknown_mode();
  announce_heap();
  if (cr::interpose::mode() == cr::interpose::Mode::kHeap) return;
  const char* dir = getenv("CR_SESSION");
  const char* pid = getenv("CR_SESSION_PID");
  if (dir == nullptr || pid == nullptr) return;
  cr::interpose::begin_journal();
  const bool another = strtol(pid, nullptr, 10) != static_cast<long>(getpid());
  // While it is not ready there is no checkpoint, so the generation is the one at which it joins.
  if (another) cr::interpose::join_journal(dir);
  cr::api::prepare_to_join();
  if (another) return;
  if (getenv("CR_SESSION_RESTORE") != nullptr) cr::interpose::take_over(dir);
  // The agent notices by itself when nobody attaches, and says so; the program just runs.
  (void)!cr::api::join_session(dir);
}

}  // namespace
